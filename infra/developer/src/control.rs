//! How `token`, `trigger` and `psql` reach a running `up`: through a file that only its user reads.

use std::{
    fs,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use axum::{
    Json, Router,
    extract::{self, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use local::{
    database,
    functions::FUNCTIONS,
    home::{self, Home},
    stack::{self, Stack},
};
use sandbox::{Calls, auth::User};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::postgres::{SUPABASE_CA_FILE, Trust, is_here, is_supabase};
use tokio::{net::TcpListener, task::JoinHandle};
use url::Url;
use uuid::Uuid;

use operator::env;

use crate::platform::Databases;

#[derive(Serialize, Deserialize)]
struct Running {
    url: String,
    secret: String,
    admin_url: String,
    psql: Option<PathBuf>,
}

fn state_file() -> PathBuf {
    home::root().join(".spine/up.json")
}

/// A running `up`'s ear; its file goes when this is dropped.
pub(crate) struct Control {
    server: JoinHandle<()>,
    file: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        self.server.abort();
        let _ = fs::remove_file(&self.file);
    }
}

struct Listening {
    stack: Arc<Stack>,
    secret: String,
    admin_url: String,
}

impl Control {
    pub(crate) async fn start(home: &Home, databases: &Databases, stack: Arc<Stack>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let running = Running {
            url: format!("http://{}", listener.local_addr()?),
            secret: format!("{:032x}", rand::random::<u128>()),
            admin_url: databases.admin_url.clone(),
            psql: databases.psql.clone(),
        };
        let file = home.state.join("up.json");
        let _ = fs::remove_file(&file);
        let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file)?;
        serde_json::to_writer(open, &running)?;
        let listening =
            Arc::new(Listening { stack, secret: running.secret.clone(), admin_url: databases.admin_url.clone() });
        let router = Router::new().route("/{command}", post(obey)).with_state(listening);
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { server, file })
    }
}

async fn obey(
    State(listening): State<Arc<Listening>>,
    extract::Path(command): extract::Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    if headers.get("x-spine-secret").is_none_or(|secret| secret.as_bytes() != listening.secret.as_bytes()) {
        return (StatusCode::FORBIDDEN, Json(json!({ "error": "not yours" })));
    }
    let outcome = match command.as_str() {
        "token" => token(&listening, &body).await,
        "fault" => fault(&listening, &body),
        "trigger" => trigger(&listening, &body).await,
        _ => Err(anyhow::anyhow!("unknown command")),
    };
    match outcome {
        Ok(answer) => (StatusCode::OK, Json(answer)),
        Err(error) => (StatusCode::BAD_REQUEST, Json(json!({ "error": format!("{error:#}") }))),
    }
}

/// Ticks a schedule, or has Stripe send events: for the newest customer there, made if there is none.
async fn trigger(listening: &Listening, body: &Value) -> Result<Value> {
    match body["what"].as_str() {
        Some("stripe") => {
            let stripe = &listening.stack.sandbox.stripe;
            let kinds: Vec<&str> = body["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if kinds.is_empty() {
                return Ok(json!({ "told": sandbox::stripe::trigger_types().join("\n") }));
            }
            for kind in kinds {
                stripe.trigger(kind, None).map_err(|refusal| anyhow::anyhow!("{kind}: {refusal}"))?;
            }
            let sent = stripe.deliver_all().await;
            let told: Vec<String> = sent
                .iter()
                .map(|attempt| {
                    let status = attempt.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
                    format!("{} {status}", attempt.event)
                })
                .collect();
            Ok(json!({ "told": told.join("\n") }))
        }
        Some(schedule) if schedules().any(|known| known == schedule) => Ok(listening.stack.tick(schedule).await?),
        Some(other) => bail!("there is no schedule {other}; there are: {}", schedules().collect::<Vec<_>>().join(", ")),
        None => {
            let names = schedules().map(str::to_owned).chain(["stripe EVENT ...".to_owned()]);
            Ok(json!({ "told": names.collect::<Vec<_>>().join("\n") }))
        }
    }
}

fn schedules() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.into_iter().filter_map(|function| Some(function.schedule?.name))
}

/// Arranges a fault; without a target or name, tells what there is.
fn fault(listening: &Listening, body: &Value) -> Result<Value> {
    let (Some(target), Some(name)) = (body["target"].as_str(), body["fault"].as_str()) else {
        let wanted = body["target"].as_str();
        let names =
            listening.stack.wires.iter().map(|(name, _)| *name).filter(|name| wanted.is_none_or(|w| w == *name));
        let lines: Vec<String> = names.map(|name| format!("{name:<10} {}", stack::faults(name).join(" "))).collect();
        return Ok(json!({ "told": lines.join("\n") }));
    };
    let number = |name: &str| body[name].as_u64().and_then(|number| usize::try_from(number).ok());
    let (calls, told) = match (number("call"), number("calls")) {
        (Some(number), _) => (Calls::Number(number), format!("call {number} from now")),
        (None, Some(count)) => (Calls::Next(count), format!("the next {count} calls")),
        (None, None) => (Calls::Every, "every call".to_owned()),
    };
    listening.stack.fault(target, name, calls)?;
    Ok(
        json!({ "told": if name == "none" { format!("{target}: nothing goes wrong") } else { format!("{target}: {name}, {told}") } }),
    )
}

async fn token(listening: &Listening, body: &Value) -> Result<Value> {
    let email = body["user"].as_str().unwrap_or_default();
    let slug = body["org"].as_str();
    let mut conn = database::connect(&listening.admin_url).await?;
    let found: Option<(Uuid, Option<Uuid>)> = sqlx::query_as(
        "select p.id, (select o.id from public.organizations o
                        where ($2::text is null or o.slug = $2)
                          and (exists (select from public.org_members m where m.org_id = o.id and m.user_id = p.id)
                               or exists (select from public.org_consultants c where c.org_id = o.id and c.user_id = p.id)
                               or exists (select from public.client_users u where u.org_id = o.id and u.user_id = p.id))
                        order by o.id limit 1)
           from auth.users p where p.email = $1",
    )
    .bind(email)
    .bind(slug)
    .fetch_optional(&mut conn)
    .await?;
    let Some((id, org)) = found else {
        bail!(
            "nobody is called {email}; the seeded people are in infra/postgres/seed.sql, dora@atelier-nord.example for one"
        );
    };
    if org.is_none() {
        bail!("{email} does not belong to {}", slug.unwrap_or("any organisation"));
    }
    let token = listening.stack.sandbox.auth.sign_in(&User { id, email: email.to_owned() }, org)?;
    Ok(json!({ "token": token }))
}

fn running() -> Result<Running> {
    let text = fs::read(state_file()).context("nothing runs here; start it with ./spine up")?;
    Ok(serde_json::from_slice(&text)?)
}

/// Asks the running `up`.
pub(crate) async fn ask(command: &str, body: &Value) -> Result<Value> {
    let running = running()?;
    let client = shared::http_client(std::time::Duration::from_secs(70))?;
    let response = client
        .post(format!("{}/{command}", running.url))
        .header("x-spine-secret", running.secret)
        .json(body)
        .send()
        .await
        .context("`./spine up` does not answer; was it killed? Start it again")?;
    let answer: Value = response.json().await?;
    match answer["error"].as_str() {
        Some(error) => bail!("{error}"),
        None => Ok(answer),
    }
}

/// DATABASE_URL, else the running `up`'s database, as its superuser.
pub(crate) fn database_url() -> Result<String> {
    env("DATABASE_URL").map_or_else(|| Ok(running()?.admin_url), Ok)
}

/// The URL and the variables with which psql verifies a server on another host, as it does not by itself.
fn verified(root: &Path, url: &str, ca: Option<&str>) -> Result<(String, Vec<(&'static str, String)>)> {
    let options = Trust::default().options(url)?;
    if options.get_socket().is_some() || is_here(options.get_host()) {
        return Ok((url.to_owned(), Vec::new()));
    }
    let authority = match ca {
        Some(pem) if pem.contains("BEGIN CERTIFICATE") => {
            bail!("psql reads an authority from a file: set DATABASE_CA to its path")
        }
        Some(path) => path.to_owned(),
        None if is_supabase(options.get_host()) => root.join(SUPABASE_CA_FILE).display().to_string(),
        None => "system".to_owned(),
    };
    let mut url = Url::parse(url)?;
    let kept: Vec<(String, String)> = url.query_pairs().into_owned().filter(|(name, _)| name != "sslmode").collect();
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    Ok((url.into(), vec![("PGSSLMODE", "verify-full".to_owned()), ("PGSSLROOTCERT", authority)]))
}

/// Becomes psql.
pub(crate) fn psql(args: &[String]) -> Result<ExitCode> {
    let (url, psql) = match env("DATABASE_URL") {
        Some(url) => (url, None),
        None => {
            let running = running()?;
            (running.admin_url, running.psql)
        }
    };
    let (url, variables) = verified(&home::root(), &url, env("DATABASE_CA").as_deref())?;
    let error = Command::new(psql.unwrap_or_else(|| "psql".into())).arg(url).args(args).envs(variables).exec();
    Err(error).context("psql cannot be run")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psql_verifies_a_server_on_another_host() {
        let root = Path::new("/spine");
        for (url, ca, wanted, authority) in [
            ("postgres://u:p@db.example.com/x?sslmode=disable", None, "postgres://u:p@db.example.com/x", "system"),
            (
                "postgres://u@db.abc.supabase.co/x?application_name=y&sslmode=require",
                None,
                "postgres://u@db.abc.supabase.co/x?application_name=y",
                "/spine/shared/src/supabase-root-2021-ca.crt",
            ),
            (
                "postgres://u@db.abc.supabase.co/x",
                Some("/other.pem"),
                "postgres://u@db.abc.supabase.co/x",
                "/other.pem",
            ),
        ] {
            let variables = vec![("PGSSLMODE", "verify-full".to_owned()), ("PGSSLROOTCERT", authority.to_owned())];
            assert_eq!(verified(root, url, ca).unwrap(), (wanted.to_owned(), variables));
        }
        assert!(home::root().join(SUPABASE_CA_FILE).is_file());
        let here = "postgres://u:p@localhost/x?sslmode=disable";
        assert_eq!(verified(root, here, None).unwrap(), (here.to_owned(), Vec::new()));
    }
}
