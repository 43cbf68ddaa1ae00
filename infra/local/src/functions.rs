//! Which functions there are, and what wakes them: what `template.yaml` says to AWS.

use std::time::Duration;

/// A function resource: one binary may be several, with other sizes.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// The resource's name.
    pub name: &'static str,
    /// The binary in the target directory.
    pub binary: &'static str,
    /// Path prefixes of the HTTP API that lead to it.
    pub routes: &'static [&'static str],
    /// The queue whose messages it works on.
    pub queue: Option<&'static str>,
    /// How often its schedule ticks.
    pub schedule: Option<Duration>,
    /// When an invocation is cut off.
    pub timeout: Duration,
    /// How many messages an invocation is given at most.
    pub batch: usize,
    /// How many invocations run at once.
    pub concurrency: usize,
}

/// The queue of renders.
pub const RENDERS: &str = "renders";
/// The queue of leads to be assigned.
pub const LEADS: &str = "leads";
/// The queue of insights.
pub const INSIGHTS: &str = "insights";

const HTTP_TIMEOUT: Duration = Duration::from_secs(29);

/// All functions.
pub const FUNCTIONS: [Function; 11] = [
    Function {
        name: "AssignLeadsHttp",
        binary: "assign_leads",
        routes: &["/v1/leads"],
        queue: None,
        schedule: None,
        timeout: HTTP_TIMEOUT,
        batch: 1,
        concurrency: 8,
    },
    Function {
        name: "AssignLeadsWorker",
        binary: "assign_leads",
        routes: &[],
        queue: Some(LEADS),
        schedule: Some(Duration::from_secs(60)),
        timeout: Duration::from_secs(120),
        batch: 1,
        concurrency: 2,
    },
    Function {
        name: "ProcessRenderRequestHttp",
        binary: "process_render_request",
        routes: &["/v1/uploads", "/v1/render-requests"],
        queue: None,
        schedule: None,
        timeout: HTTP_TIMEOUT,
        batch: 1,
        concurrency: 16,
    },
    Function {
        name: "ProcessRenderRequestWorker",
        binary: "process_render_request",
        routes: &[],
        queue: Some(RENDERS),
        schedule: None,
        timeout: Duration::from_secs(300),
        batch: 1,
        concurrency: 4,
    },
    Function {
        name: "GenerateAiInsightsHttp",
        binary: "generate_ai_insights",
        routes: &["/v1/insights"],
        queue: None,
        schedule: None,
        timeout: HTTP_TIMEOUT,
        batch: 1,
        concurrency: 8,
    },
    Function {
        name: "GenerateAiInsightsWorker",
        binary: "generate_ai_insights",
        routes: &[],
        queue: Some(INSIGHTS),
        schedule: Some(Duration::from_secs(60)),
        timeout: Duration::from_secs(180),
        batch: 1,
        concurrency: 2,
    },
    Function {
        name: "Jobs",
        binary: "jobs",
        routes: &["/v1/jobs"],
        queue: None,
        schedule: None,
        timeout: HTTP_TIMEOUT,
        batch: 1,
        concurrency: 8,
    },
    Function {
        name: "RecordAgentAction",
        binary: "record_agent_action",
        routes: &["/v1/agent-actions"],
        queue: None,
        schedule: None,
        timeout: HTTP_TIMEOUT,
        batch: 1,
        concurrency: 8,
    },
    Function {
        name: "StripeWebhookHttp",
        binary: "stripe_webhook",
        routes: &["/webhooks/stripe", "/v1/billing"],
        queue: None,
        schedule: None,
        timeout: HTTP_TIMEOUT,
        batch: 1,
        concurrency: 8,
    },
    Function {
        name: "StripeWebhookReconcile",
        binary: "stripe_webhook",
        routes: &[],
        queue: None,
        schedule: Some(Duration::from_secs(60)),
        timeout: Duration::from_secs(300),
        batch: 1,
        concurrency: 1,
    },
    Function {
        name: "Sweep",
        binary: "sweep",
        routes: &[],
        queue: None,
        schedule: Some(Duration::from_secs(60)),
        timeout: Duration::from_secs(55),
        batch: 1,
        concurrency: 1,
    },
];
