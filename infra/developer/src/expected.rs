//! What migrations make, for `restore-check` to compare with.

use anyhow::Result;
use local::{
    database,
    home::Home,
    servers::{Postgres, Version},
};
use operator::restore::{Dialect, Expected};

/// Makes it on a server of its own that prints definitions in this way.
pub(crate) async fn make(home: &Home, dialect: Dialect) -> Result<Expected> {
    let version = match dialect {
        Dialect::Until16 => Version::V16,
        Dialect::Since17 => Version::V18,
    };
    let server = Postgres::start(home, version, None).await?;
    let url = database::create(&server.admin_url, "expected", None).await?;
    database::migrate(&home.root, &url).await?;
    let mut conn = database::connect(&url).await?;
    let expected = Expected::read(&mut conn).await?;
    sqlx::Connection::close(conn).await?;
    Ok(expected)
}
