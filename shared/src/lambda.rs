//! Triggers: what woke the function, told apart by the shape of the event, and the loop that answers them.

use std::{fmt, time::Duration};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, header};
use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::{Value, json};
use tracing::Instrument;

use crate::http::{ApiError, HttpRequest, HttpResponse};

pub use lambda_runtime::Error;

/// What woke the function.
#[derive(Debug)]
pub enum Trigger {
    /// A request through the HTTP API or a function URL (payload 2.0).
    Http(HttpRequest),
    /// A batch from an SQS queue.
    Queue(Batch),
    /// A tick of an EventBridge schedule.
    Schedule(Tick),
}

/// What the function says to it.
#[derive(Debug)]
pub enum Answer {
    /// To a request.
    Http(HttpResponse),
    /// To a batch: which messages to deliver again.
    Queue(SqsBatchResponse),
    /// To a tick; the value is for whoever reads the invocation's result.
    Schedule(Value),
}

/// The event is none this function knows.
#[derive(Debug)]
struct UnknownEvent;

impl fmt::Display for UnknownEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event is neither an HTTP API request, an SQS batch nor a schedule's tick")
    }
}

impl std::error::Error for UnknownEvent {}

/// A tick of a schedule. It may come twice: `id` is the same then.
#[derive(Debug, Clone)]
pub struct Tick {
    /// The event's id.
    pub id: String,
    /// How long the function has.
    pub remaining: Duration,
}

/// A batch of messages.
#[derive(Debug)]
pub struct Batch {
    messages: Vec<SqsMessage>,
    /// How long the function has for all of them.
    pub remaining: Duration,
}

impl Batch {
    /// Works on each message in turn, and names those that failed, so that only they come again.
    ///
    /// `work` returns whether the message has served its purpose.
    pub async fn each(self, mut work: impl AsyncFnMut(&str) -> bool) -> Answer {
        let mut response = SqsBatchResponse::default();
        for message in self.messages {
            if !work(message.body.as_deref().unwrap_or_default()).await {
                let mut failure = BatchItemFailure::default();
                // SQS takes an absent id for the whole batch, which is the safe reading too.
                failure.item_identifier = message.message_id.unwrap_or_default();
                response.batch_item_failures.push(failure);
            }
        }
        Answer::Queue(response)
    }
}

/// Tells events apart by shape.
///
/// # Errors
/// [`Error`] if it is none of the three: Lambda then counts a failed invocation.
pub fn parse(event: Value, request_id: &str, remaining: Duration) -> Result<Trigger, Error> {
    if event.pointer("/requestContext/http").is_some() {
        return Ok(Trigger::Http(parse_http(event, request_id)?));
    }
    if event.pointer("/Records/0/eventSource").and_then(Value::as_str) == Some("aws:sqs") {
        let event: SqsEvent = serde_json::from_value(event)?;
        return Ok(Trigger::Queue(Batch { messages: event.records, remaining }));
    }
    match event.get("source").and_then(Value::as_str) {
        Some("aws.events" | "aws.scheduler") => {
            let id = event.get("id").and_then(Value::as_str).unwrap_or(request_id).to_owned();
            Ok(Trigger::Schedule(Tick { id, remaining }))
        }
        _ => Err(Box::new(UnknownEvent)),
    }
}

/// Taken from the event itself: `lambda_http`'s own conversion builds a URL from path and host, and panics where there is none. Its `LambdaRequest`
/// writes the event out and parses it once more, to find out which kind it is, which is known here.
fn parse_http(event: Value, request_id: &str) -> Result<HttpRequest, Error> {
    let event: ApiGatewayV2httpRequest = serde_json::from_value(event)?;
    let body = event.body.unwrap_or_default();
    let body = if event.is_base64_encoded { Bytes::from(STANDARD.decode(body)?) } else { Bytes::from(body) };
    // The HTTP API takes them out of the headers.
    let mut headers = event.headers;
    for cookie in event.cookies.unwrap_or_default() {
        headers.append(header::COOKIE, HeaderValue::from_str(&cookie)?);
    }
    let context = event.request_context;
    Ok(HttpRequest {
        method: context.http.method,
        path: event.raw_path.or(context.http.path).unwrap_or_default(),
        query: event.raw_query_string.unwrap_or_default().into(),
        headers,
        body,
        request_id: context.request_id.filter(|id| !id.is_empty()).unwrap_or_else(|| request_id.to_owned()),
        source_ip: context.http.source_ip,
    })
}

fn to_event(answer: Answer) -> Result<Value, Error> {
    Ok(match answer {
        Answer::Http(response) => json!({
            "statusCode": response.status, "headers": response.headers, "body": response.body,
            "isBase64Encoded": false, "cookies": [],
        }),
        Answer::Queue(response) => serde_json::to_value(response)?,
        Answer::Schedule(value) => value,
    })
}

/// What is kept of the function's time for saying that it is over.
const ANSWERING: Duration = Duration::from_secs(1);

/// The source of an event that asks for a fire drill. It can only be sent by whoever may invoke the function directly: an
/// HTTP API, a queue and a schedule each make events of their own shape.
const DRILL: &str = "spine.drill";

/// Panics, so that an operator sees the alarm ring: an alarm that never rang is not known to work.
#[expect(clippy::panic, reason = "it is what a drill is for")]
fn drill() {
    panic!("this is a drill");
}

/// Polls the Lambda runtime API and answers each event with `handle`, for as long as the process lives.
///
/// # Errors
/// [`Error`] if the runtime API cannot be reached.
pub async fn run<S>(state: &S, handle: impl AsyncFn(&S, Trigger) -> Result<Answer, Error>) -> Result<(), Error> {
    let handle = &handle;
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
        let request_id = event.context.request_id.clone();
        let remaining = event.context.deadline().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let span = tracing::info_span!(
            "invocation",
            function = crate::telemetry::function(),
            request.id = %request_id,
            client.request.id = tracing::field::Empty,
            org.id = tracing::field::Empty,
            actor.id = tracing::field::Empty,
        );
        async move {
            let remaining = remaining.saturating_sub(now_since_epoch());
            if event.payload.get("source").and_then(Value::as_str) == Some(DRILL) {
                drill();
            }
            let trigger = parse(event.payload, &request_id, remaining)?;
            if let Trigger::Http(request) = &trigger {
                // What the client is told; the invocation has another.
                tracing::Span::current().record("client.request.id", tracing::field::display(&request.request_id));
            }
            // Boxed, since the state machine of a whole function nested in the runtime's is more than the compiler will lay out.
            let answered = in_time(remaining, trigger, |trigger| Box::pin(handle(state, trigger)));
            to_event(crate::telemetry::invocation(answered).await?)
        }
        .instrument(span)
        .await
    }))
    .await
}

/// Has a trigger answered within `remaining`. A request that takes longer is answered with 503 before the function is cut off: the
/// gateway's answer would have no code, and the log no line. What it has not committed by then is rolled back. Workers and schedules keep
/// time themselves.
async fn in_time<F: Future<Output = Result<Answer, Error>>>(
    remaining: Duration,
    trigger: Trigger,
    handle: impl FnOnce(Trigger) -> F,
) -> Result<Answer, Error> {
    let Trigger::Http(request) = &trigger else { return handle(trigger).await };
    let request_id = request.request_id.clone();
    match tokio::time::timeout(remaining.saturating_sub(ANSWERING), handle(trigger)).await {
        Ok(answer) => answer,
        Err(_) => {
            let detail = "The request took too long, and may or may not have taken effect; try again shortly.";
            Ok(Answer::Http(ApiError::unavailable("time_out", detail, 5).into_response(&request_id)))
        }
    }
}

fn now_since_epoch() -> Duration {
    Duration::from_millis(u64::try_from(chrono::Utc::now().timestamp_millis()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn request() -> Trigger {
        Trigger::Http(HttpRequest {
            method: http::Method::POST,
            path: "/v1/uploads".to_owned(),
            query: "".into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            request_id: "the-request".to_owned(),
            source_ip: None,
        })
    }

    fn answer(status: u16) -> Result<Answer, Error> {
        Ok(Answer::Http(HttpResponse { status, headers: std::collections::BTreeMap::new(), body: String::new() }))
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered_before_the_function_is_cut_off() {
        // The gateway's own answer has no code, does not say when to ask again, and the function's log says nothing.
        let hangs = tokio::time::timeout(
            Duration::from_secs(2),
            in_time(Duration::from_millis(1001), request(), |_| std::future::pending()),
        );
        let Ok(Ok(Answer::Http(answered))) = hangs.await else { panic!("no answer in time") };
        let body: Value = serde_json::from_str(&answered.body).unwrap();
        assert_eq!(
            (answered.status, &body["code"], &body["request_id"]),
            (503, &json!("time_out"), &json!("the-request"))
        );
        assert_eq!(answered.headers["retry-after"], "5");
    }

    #[tokio::test]
    async fn what_is_answered_in_time_is_left_as_it_is_and_only_requests_are_cut_short() {
        let hour = Duration::from_secs(3600);
        let Ok(Answer::Http(answered)) = in_time(hour, request(), async |_| answer(201)).await else { panic!("none") };
        assert_eq!(answered.status, 201);
        // A worker gives its job back, and a schedule ends its part: each keeps time itself.
        let tick = Trigger::Schedule(Tick { id: "one".to_owned(), remaining: Duration::ZERO });
        let ticked = in_time(Duration::ZERO, tick, async |_| {
            tokio::task::yield_now().await;
            Ok(Answer::Schedule(json!("done")))
        });
        assert!(matches!(ticked.await, Ok(Answer::Schedule(value)) if value == "done"));
    }
}
