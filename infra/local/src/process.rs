//! Child processes that end with us, however we end.

use std::{
    io,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use std::os::unix::process::CommandExt;

/// Runs `$@` after the first, and sends it the signal that the first names when nobody holds the other end of its standard input any more: also when whoever started it
/// was killed, which no handler survives to tell.
const SUPERVISOR: &str =
    r#"signal=$1; shift; "$@" </dev/null & child=$!; read -r _; kill -"$signal" $child 2>/dev/null; wait $child"#;

/// How long a server may take to stop before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whose rights a server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Postgres' fast shutdown, which does not wait for clients.
    Interrupt,
    /// What most programs end on. A shell's background children ignore interrupts unless they ask for them.
    Terminate,
}

/// A server that runs for as long as this is held.
#[derive(Debug)]
pub struct Supervised {
    supervisor: Child,
    hold: Option<ChildStdin>,
}

impl Supervised {
    /// Starts a server in a process group of its own, so that Ctrl-C reaches us first; its output goes to `log`.
    ///
    /// # Errors
    /// If it cannot be started; not if it ends right after.
    pub fn start(program: &Path, args: &[String], stop: Stop, owner: Option<Owner>, log: &Path) -> io::Result<Self> {
        let signal = match stop {
            Stop::Interrupt => "INT",
            Stop::Terminate => "TERM",
        };
        let out = std::fs::File::create(log)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "sh", signal])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .current_dir("/")
            .process_group(0);
        if let Some(owner) = owner {
            command.uid(owner.uid).gid(owner.gid);
        }
        let mut supervisor = command.spawn()?;
        let hold = supervisor.stdin.take();
        Ok(Self { supervisor, hold })
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        drop(self.hold.take());
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(self.supervisor.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}
