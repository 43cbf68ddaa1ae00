//! `./spine up`: the whole back office, until stopped.

use std::{fs::File, net::TcpListener, process::ExitCode, sync::Arc};

use anyhow::{Context, Result};
use local::{home::Home, scheduler::Scheduler};

use crate::{control, platform, report};

pub(crate) async fn run(port: u16, given: platform::Given) -> Result<ExitCode> {
    given.check().await?;
    // Looked at before anything starts that would have to be stopped again.
    TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} cannot be listened on"))?;
    let home = Home::open()?;
    // The kept data is one run's at a time; another gets its own, which goes with it.
    let lock = File::create(home.servers.join("up.lock"))?;
    let kept = lock.try_lock().is_ok().then(|| home.servers.join("data"));
    match &kept {
        Some(data) => home.give(data)?,
        None => report::line(
            "another `up` holds the kept data: this one starts empty, keeps nothing, and answers to no other command",
        ),
    }
    let databases = platform::Databases::start(&home, kept.as_deref(), given).await?;
    let directory = kept.clone().unwrap_or_else(|| home.run.clone());
    let (_login, stack) = platform::bring_up(&home, &databases, directory, port).await?;
    let stack = Arc::new(stack);
    let _scheduler = Scheduler::start(&stack.functions);
    // One `up` answers to `token`, `trigger` and `psql`: the one that holds the kept data.
    let _control = match &kept {
        Some(_) => Some(control::Control::start(&home, &databases, Arc::clone(&stack)).await?),
        None => None,
    };
    report::line(&format!("logs of the functions: {}", stack.logs.display()));
    report::line("sign in: ./spine token --user dora@atelier-nord.example");
    report::out(&format!("ready {}", stack.url));
    std::future::pending::<()>().await;
    Ok(ExitCode::SUCCESS)
}
