//! Debian's PgBouncer, a transaction pooler such as Supabase puts before Postgres: found, or fetched beside the system rather than
//! installed into it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{net::TcpStream, time::Instant};
use url::Url;

use crate::{
    home::Home,
    process::{Stop, Supervised},
    servers::free_port,
};

const READY: Duration = Duration::from_secs(20);

/// PgBouncer as it can be run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// Where libraries are that the system may lack; empty for a system's own.
    pub libraries: PathBuf,
}

impl Program {
    fn runs(&self) -> bool {
        let tried = Command::new(&self.path)
            .arg("--version")
            .env("LD_LIBRARY_PATH", &self.libraries)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    }
}

/// The system's PgBouncer, else one fetched from the system's package archive into the servers' directory.
///
/// # Errors
/// Says why there is none, for people to read.
pub fn find(home: &Home) -> Result<Program> {
    for path in ["/usr/sbin/pgbouncer", "/usr/local/bin/pgbouncer", "/opt/homebrew/bin/pgbouncer"] {
        let own = Program { path: path.into(), libraries: PathBuf::new() };
        if own.runs() {
            return Ok(own);
        }
    }
    let kept = home.servers.join("pgbouncer");
    if let Some(program) = unpacked(&kept) {
        return Ok(program);
    }
    let aside = home.run.join("pgbouncer");
    fetch(&aside)?;
    // What is there does not run; or another run was faster, which is as good.
    let _ = fs::remove_dir_all(&kept);
    let _ = fs::rename(aside.join("unpacked"), &kept);
    unpacked(&kept).context("the package was fetched and does not run here")
}

fn unpacked(root: &Path) -> Option<Program> {
    let path = root.join("usr/sbin/pgbouncer");
    // Debian keeps libraries in a folder named for the processor.
    let mut folders = fs::read_dir(root.join("usr/lib")).ok()?.flatten().map(|entry| entry.path());
    let libraries = folders.find(|folder| folder.to_string_lossy().ends_with("-linux-gnu")).unwrap_or_default();
    Some(Program { path, libraries }).filter(Program::runs)
}

/// Downloads and unpacks, with lists and caches of its own: nothing of the system changes, and nobody needs to be root.
fn fetch(to: &Path) -> Result<()> {
    for folder in ["lists/partial", "cache/archives/partial", "packages", "unpacked"] {
        fs::create_dir_all(to.join(folder))?;
    }
    let at = to.display();
    let settings = format!(
        "#clear APT::Update::Pre-Invoke;\n#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
         Dir::State::lists \"{at}/lists\";\nDir::Cache \"{at}/cache\";\nAPT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\nAcquire::Retries \"3\";\n"
    );
    let conf = to.join("apt.conf");
    fs::write(&conf, settings)?;
    let run = |program: &str, args: &[&str], folder: &str| -> Result<bool> {
        let done = Command::new(program)
            .args(args)
            .current_dir(to.join(folder))
            .env("APT_CONFIG", &conf)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .with_context(|| format!("there is no {program}: this is no Debian or Ubuntu"))?;
        Ok(done.success())
    };
    if !run("apt-get", &["-q", "update"], "packages")? {
        bail!("apt-get update failed");
    }
    if !run("apt-get", &["-q", "download", "pgbouncer"], "packages")? {
        bail!("the package archive has no pgbouncer");
    }
    for library in ["libc-ares2", "libcares2", "libevent-2.1-7", "libevent-2.1-7t64"] {
        // Each release has two of the four.
        run("apt-get", &["-q", "download", library], "packages")?;
    }
    for package in fs::read_dir(to.join("packages"))?.flatten() {
        let (package, unpacked) = (package.path(), to.join("unpacked"));
        if !run("dpkg-deb", &["-x", &package.to_string_lossy(), &unpacked.to_string_lossy()], "packages")? {
            bail!("{} cannot be unpacked", package.display());
        }
    }
    Ok(())
}

/// A pooler in transaction mode; it stops when this is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    _server: Supervised,
    /// The URL that was given, through the pooler.
    pub url: String,
}

impl PgBouncer {
    /// Puts a pool of `size` server connections before the database of `url`. `secret` is what the pooler keeps of the password, if that is not
    /// the password itself: what the server keeps, so that a login costs no more here than there.
    ///
    /// # Errors
    /// With the end of the pooler's own log, if it does not come up.
    pub async fn start(home: &Home, program: &Program, url: &str, secret: Option<&str>, size: usize) -> Result<Self> {
        let mut url = Url::parse(url)?;
        let (user, password) = (url.username().to_owned(), url.password().unwrap_or_default().to_owned());
        let secret = secret.unwrap_or(&password);
        let database = url.path().trim_start_matches('/').to_owned();
        let upstream = url.port().context("the database's URL names no port")?;
        let folder = home.run.join(format!("pgbouncer-{:08x}", rand::random::<u32>()));
        home.give(&folder)?;
        let (settings, users, log) = (folder.join("pgbouncer.ini"), folder.join("users.txt"), folder.join("log"));
        fs::write(&users, format!("\"{user}\" \"{secret}\"\n"))?;
        for _ in 0..5 {
            let port = free_port()?;
            let text = format!(
                "[databases]\n{database} = host=127.0.0.1 port={upstream} dbname={database}\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
                 auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {size}\n\
                 max_client_conn = 500\nignore_startup_parameters = extra_float_digits\n",
                users.display()
            );
            fs::write(&settings, text)?;
            let args = [
                format!("LD_LIBRARY_PATH={}", program.libraries.display()),
                program.path.display().to_string(),
                settings.display().to_string(),
            ];
            let server = Supervised::start(Path::new("/usr/bin/env"), &args, Stop::Interrupt, home.owner, &log)?;
            if listens(port).await {
                url.set_port(Some(port)).map_err(|()| anyhow::anyhow!("the database's URL names no host"))?;
                return Ok(Self { _server: server, url: url.into() });
            }
        }
        bail!("PgBouncer did not start:\n{}", fs::read_to_string(&log).unwrap_or_default())
    }
}

async fn listens(port: u16) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < READY {
        if TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}
