//! Where a test's servers are: those that `./spine test` or `./spine servers` runs, else of this process alone, each started when a test
//! first asks for it.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    sync::{Mutex, OnceLock},
};

use developer::release;
use local::{
    home::{self, Home},
    testbed::{self, Part, Running},
};

/// The value of a variable that says where something is.
pub(crate) fn place(name: &str) -> String {
    given(name).unwrap_or_else(|| started(name))
}

/// As a run says that stands behind this process, if there is one.
fn given(name: &str) -> Option<String> {
    static ANNOUNCED: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    let announced = || ANNOUNCED.get_or_init(|| testbed::announced(&home::root()));
    std::env::var(name).ok().or_else(|| announced().get(name).cloned())
}

/// Servers of this process, which end with it.
static STARTED: Mutex<Vec<(Part, Running)>> = Mutex::new(Vec::new());

fn started(name: &str) -> String {
    let part = Part::of(name).unwrap_or_else(|| panic!("nothing says where {name} is"));
    let mut started = STARTED.lock().unwrap();
    if !started.iter().any(|(known, _)| *known == part) {
        // A runtime of its own: the test's ends before the others do.
        let running = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(part.start(own_home())).unwrap()
        });
        started.push((part, running.join().unwrap()));
    }
    let variables = started.iter().flat_map(|(_, running)| &running.variables);
    variables.filter(|(known, _)| *known == name).map(|(_, value)| value.clone()).next().unwrap()
}

/// This process' own. A later run clears away what it leaves.
fn own_home() -> &'static Home {
    static HOME: OnceLock<Home> = OnceLock::new();
    HOME.get_or_init(|| Home::open().unwrap())
}

/// Where tests put files and logs.
pub(crate) fn directory() -> PathBuf {
    given("SPINE_TEST_DIRECTORY").map_or_else(|| own_home().run.clone(), PathBuf::from)
}

/// Where cargo puts the functions' binaries: above the tests'. Built first, unless the run has done that.
pub fn binaries() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = || {
        let own = std::env::current_exe().unwrap();
        let binaries = own.ancestors().nth(2).unwrap().to_path_buf();
        if given("SPINE_TEST_BUILT").is_none() {
            // Past the capture of a test's output: nothing else is said for as long as that takes.
            let _ = writeln!(std::io::stderr(), "building the functions' binaries, if anything has changed");
            let mut cargo = release::cargo();
            cargo.args(["build", "--locked", "--quiet", "--workspace", "--exclude", "soak", "--bins", "--target-dir"]);
            cargo.arg(binaries.parent().unwrap()).args(binaries.ends_with("release").then_some("--release"));
            assert!(cargo.current_dir(home::root()).status().unwrap().success(), "the functions do not build");
        }
        binaries
    };
    BUILT.get_or_init(built).clone()
}

/// The bootstrap of `jobs`, as it is deployed.
pub fn bootstrap() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let here = home::root().join(release::HERE);
        release::bootstraps(&home::root(), release::Arch::HOST, ["jobs"], &here, false).unwrap();
        here.join("jobs/bootstrap")
    };
    given("SPINE_TEST_BOOTSTRAP").map_or_else(|| BUILT.get_or_init(build).clone(), PathBuf::from)
}
