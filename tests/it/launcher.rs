//! `./spine` itself: what it says without a build, and what it leaves where it is stopped.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use integration_tests::binaries;
use local::{
    home,
    testbed::{self, Locale},
};

/// A checkout of what the script needs before it builds, which goes when this is dropped.
struct Checkout(PathBuf);

impl Checkout {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("spine-checkout-{}", uuid::Uuid::new_v4().simple()));
        let root = home::root();
        fs::create_dir_all(path.join("infra")).unwrap();
        for name in ["spine", "Cargo.toml", "rust-toolchain.toml"] {
            fs::copy(root.join(name), path.join(name)).unwrap();
        }
        for name in ["infra/help", "infra/python"] {
            fs::create_dir(path.join(name)).unwrap();
            for file in fs::read_dir(root.join(name)).unwrap().flatten().filter(|file| file.path().is_file()) {
                fs::copy(file.path(), path.join(name).join(file.file_name())).unwrap();
            }
        }
        Self(path)
    }

    /// Runs the script. Its code, and all that it printed.
    fn run(&self, script: &Path, args: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(script).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        assert!(!self.0.join(".spine").exists() && !self.0.join("target").exists());
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn help(args: &[&str]) -> String {
    let output = Command::new(binaries().join("spine-local")).args(args).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_help_that_needs_no_build_is_that_of_the_commands() {
    let folder = home::root().join("infra/help");
    let page = help(&[]);
    let listed = page.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: BTreeSet<&str> = listed.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 15 && commands.contains("demo"), "{page}");
    let kept = fs::read_dir(&folder).unwrap().flatten().map(|file| file.file_name().into_string().unwrap());
    let kept: BTreeSet<String> = kept.filter_map(|name| name.strip_suffix(".txt").map(str::to_owned)).collect();
    let wanted: BTreeSet<String> = commands.iter().chain(&["spine"]).map(|name| (*name).to_owned()).collect();
    assert_eq!(kept, wanted);
    for name in &wanted {
        // That of the soak is another program's, which this one becomes, and which is not built with the tests.
        if name == "soak" {
            continue;
        }
        let printed = if name == "spine" { page.clone() } else { help(&[name]) };
        assert_eq!(
            fs::read_to_string(folder.join(format!("{name}.txt"))).unwrap(),
            printed,
            "write it again: target/debug/spine-local {name} --help > infra/help/{name}.txt (without a name for spine.txt)"
        );
    }
}

#[test]
fn help_version_and_misspellings_are_answered_without_installing_anything() {
    let checkout = Checkout::new();
    let script = checkout.0.join("spine");
    let link = checkout.0.join("infra/link");
    symlink("../spine", &link).unwrap();
    for script in [&script, &link] {
        let run = |args: &[&str]| checkout.run(script, args);
        let version = format!("spine {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(run(&["--version"]), (Some(0), version));
        for args in [[].as_slice(), &["--help"], &["help"]] {
            let (code, printed) = run(args);
            assert!(code == Some(0) && printed.contains("Usage: ./spine <COMMAND>"), "{args:?}: {printed}");
        }
        for args in [["up", "--help"], ["up", "-h"], ["help", "up"]] {
            let (code, printed) = run(&args);
            assert!(code == Some(0) && printed.contains("--port <PORT>"), "{args:?}: {printed}");
        }
        for (args, nearest) in [
            (["dmeo", ""], "The nearest is demo;"),
            (["restore_check", ""], "The nearest is restore-check;"),
            (["up", "--prot"], "The nearest is --port;"),
            (["vector-index", "--droop=x"], "The nearest is --drop;"),
            (["help", "tset"], "The nearest is test;"),
        ] {
            let (code, printed) = run(&args);
            assert!(
                code == Some(2) && printed.contains(nearest) && printed.lines().count() == 1,
                "{args:?}: {printed}"
            );
        }
        checkout.is_as_it_was();
    }
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_installed_or_started() {
    let checkout = Checkout::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, printed) = checkout.run(&checkout.0.join("spine"), &["up", "--port", &port]);
    assert!(code == Some(2) && printed.contains(&format!("port {port} cannot be listened on")), "{printed}");
    checkout.is_as_it_was();
    // Nor does the program begin with its servers.
    let output = Command::new(binaries().join("spine-local")).args(["up", "--port", &port]).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains(&format!("port {port} cannot be listened on")) && !printed.contains("start"), "{printed}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_checkout_that_cannot_be_written_is_named() {
    let checkout = Checkout::new();
    // Where a folder should be: nobody can make one there, not even root.
    fs::write(checkout.0.join(".spine"), "").unwrap();
    let (code, printed) = checkout.run(&checkout.0.join("spine"), &["demo"]);
    let wanted = format!("spine: {} cannot be written", checkout.0.join(".spine").display());
    assert!(code == Some(1) && printed.starts_with(&wanted) && printed.lines().count() == 1, "{printed}");
}

fn signal(child: &Child, group: bool, name: &str) {
    let id = i32::try_from(child.id()).unwrap();
    let id = if group { -id } else { id };
    assert!(Command::new("kill").args([&format!("-{name}"), "--", &id.to_string()]).status().unwrap().success());
}

#[test]
fn an_installation_that_is_stopped_leaves_one_line_and_nothing_that_runs() {
    // A package index that takes a connection and never answers.
    let index = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/simple", index.local_addr().unwrap());
    for (group, name, code) in [(true, "INT", 130), (false, "TERM", 143)] {
        let checkout = Checkout::new();
        let mut child = Command::new(checkout.0.join("spine"))
            .args(["install", "servers"])
            .env("PIP_INDEX_URL", &url)
            .env("PIP_RETRIES", "0")
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let (mut held, _) = index.accept().unwrap();
        signal(&child, group, name);
        let mut printed = String::new();
        child.stderr.take().unwrap().read_to_string(&mut printed).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(code), None), "{printed}");
        let lines: Vec<&str> = printed.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains("installing Postgres"), "{printed}");
        assert_eq!(lines[1], "spine: stopped while installing; ./spine install goes on from there");
        // pip is gone: the other end is closed.
        held.set_read_timeout(None).unwrap();
        std::io::copy(&mut held, &mut std::io::sink()).unwrap();
        assert!(!checkout.0.join(".spine/servers/installed.sha256").exists());
    }
}

/// A checkout whose files are this one's, with an installation of this one's and nothing else of its own.
fn beside() -> Checkout {
    let checkout = Checkout::new();
    fs::remove_dir_all(checkout.0.join("infra")).unwrap();
    fs::create_dir(checkout.0.join(".spine")).unwrap();
    let root = home::root();
    for name in ["infra", "migrations"] {
        symlink(root.join(name), checkout.0.join(name)).unwrap();
    }
    for list in ["servers", "tools"] {
        symlink(home::installed(&root, list).unwrap(), checkout.0.join(".spine").join(list)).unwrap();
    }
    checkout
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_say_where_they_are_for_as_long_as_they_run() {
    let checkout = beside();
    let file = checkout.0.join(".spine/run/env");
    // Of a run that was killed.
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "SPINE_TEST_MONGODB_URI='mongodb://gone'\n").unwrap();
    assert!(testbed::announced(&checkout.0).is_empty());

    let start = || {
        let mut command = Command::new(binaries().join("spine-local"));
        command.arg("servers").env("SPINE_ROOT", &checkout.0).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut servers = start();
    let mut out = servers.stdout.take().unwrap();
    let ready = tokio::task::spawn_blocking(move || {
        let mut byte = [0; 1];
        let mut line = String::new();
        while out.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        line
    });
    assert_eq!(ready.await.unwrap(), format!("ready {}", file.canonicalize().unwrap().display()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let places = testbed::announced(&checkout.0);
    for name in ["SPINE_TEST_DATABASE_URL", "SPINE_TEST_DATABASE_URL_16"] {
        let template = testbed::template(&checkout.0, &places[name], Locale::C).await.unwrap();
        testbed::copy(&places[name], &template, "copied").await.unwrap();
    }
    assert!(places["SPINE_TEST_MONGODB_URI"].starts_with("mongodb://127.0.0.1:"), "{places:?}");
    assert!(places.contains_key("SPINE_TEST_AWS_URL"), "{places:?}");

    let second = start().wait_with_output().unwrap();
    assert!(String::from_utf8(second.stderr).unwrap().contains("runs already"));
    assert_eq!(testbed::announced(&checkout.0), places);

    signal(&servers, false, "TERM");
    assert_eq!(servers.wait().unwrap().code(), Some(143));
    assert!(!file.exists());
    assert!(testbed::announced(&checkout.0).is_empty());
}
