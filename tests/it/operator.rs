//! `spine-operator`: alone in a folder, without a checkout, it does to a database what `./spine` does.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use integration_tests::{TestDatabase, binaries};
use operator::{
    database::Migrations,
    restore::{Expected, dialect},
};

use crate::SERVERS;

/// The program in a folder of its own, which goes when this is dropped.
struct Alone(PathBuf);

impl Alone {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("spine-operator-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&folder).unwrap();
        fs::copy(binaries().join("spine-operator"), folder.join("spine-operator")).unwrap();
        Self(folder)
    }

    fn run(&self, url: &str, args: &[&str]) -> (Option<i32>, String) {
        let program = self.0.join("spine-operator");
        let Output { status, stdout, stderr } = Command::new(program)
            .args(args)
            .current_dir(&self.0)
            .env_clear()
            .env("DATABASE_URL", url)
            .output()
            .unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_program_migrates_and_checks_without_a_checkout() {
    for server in SERVERS {
        let (alone, db) = (Alone::new(), TestDatabase::empty(server).await);
        let (code, printed) = alone.run(&db.url, &["migrate"]);
        assert!(code == Some(0) && printed.contains(" applied, 0 before"), "{server:?}: {printed}");

        let check = || alone.run(&db.url, &["restore-check", "--dry-run"]);
        let file = alone.0.join(dialect(&db.url).await.unwrap().file());
        let (code, printed) = check();
        assert!(
            code == Some(1) && printed.contains(&format!("{} cannot be read", file.display())),
            "{server:?}: {printed}"
        );

        let other = TestDatabase::new(server).await;
        let expected = Expected::read(&mut other.admin().await).await.unwrap();
        expected.write(&file, &Migrations::built_in()).unwrap();
        let (code, printed) = check();
        assert!(code == Some(0) && printed.starts_with("nothing differs"), "{server:?}: {printed}");

        db.run("drop policy leads_select on public.leads").await;
        let (code, printed) = check();
        assert!(code == Some(1) && printed.contains("missing: policy leads_select"), "{server:?}: {printed}");

        let mut kept: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        kept["migrations"].as_array_mut().unwrap().pop();
        fs::write(&file, kept.to_string()).unwrap();
        let (code, printed) = check();
        assert!(code == Some(1) && printed.contains("was made of other migrations"), "{server:?}: {printed}");
    }
}
