//! What `stripe_webhook` takes for a delivery without Lambda's runtime API before it: its handler, in this process, one delivery after
//! the other.
//!
//! The file named first holds a delivery a line. Those up to the number named second are for warming up; then `ready` goes to standard
//! error, a line is awaited on standard input, the others are handled, and standard error gets what that took. Logs and metrics
//! go to standard output, as the function's do.

use std::{
    fs,
    io::{self, BufRead, Write},
    time::Instant,
};

use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::json;
use shared::{
    http::HttpRequest,
    lambda::{Answer, Error, Trigger},
};
use stripe_webhook::{State, handle};

/// As Stripe posts it.
#[derive(Deserialize)]
struct Delivery {
    signature: String,
    body: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    shared::telemetry::init("stripe_webhook");
    let mut args = std::env::args().skip(1);
    let (file, warm) = (args.next().ok_or("no file")?, args.next().ok_or("no number")?.parse()?);
    let deliveries: Vec<Delivery> =
        fs::read_to_string(file)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (warming, timed) = deliveries.split_at_checked(warm).ok_or("too few deliveries")?;
    let state = State::from_env()?;
    for delivery in warming {
        deliver(&state, delivery).await?;
    }
    writeln!(io::stderr(), "ready")?;
    io::stdin().lock().read_line(&mut String::new())?;

    let (begun, cpu) = (Instant::now(), cpu_ns()?);
    for delivery in timed {
        deliver(&state, delivery).await?;
    }
    let told = json!({ "seconds": begun.elapsed().as_secs_f64(), "cpu_ns": cpu_ns()? - cpu, "peak": peak()? });
    writeln!(io::stderr(), "{told}")?;
    Ok(())
}

async fn deliver(state: &State, delivery: &Delivery) -> Result<(), Error> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert("stripe-signature", HeaderValue::from_str(&delivery.signature)?);
    let request = HttpRequest {
        method: Method::POST,
        path: "/webhooks/stripe".to_owned(),
        query: Box::default(),
        headers,
        body: delivery.body.clone().into(),
        request_id: "bench".to_owned(),
        source_ip: None,
    };
    match handle(state, Trigger::Http(request)).await? {
        Answer::Http(response) if response.status == 200 && response.body.contains("\"applied\"") => Ok(()),
        answer => Err(format!("a delivery was answered {answer:?}").into()),
    }
}

/// Time on a processor so far, of all threads.
fn cpu_ns() -> Result<u64, Error> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let told = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += told.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}

/// The most memory held, in bytes.
fn peak() -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
