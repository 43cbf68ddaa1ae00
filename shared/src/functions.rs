//! The one list of functions: what each is made of, what wakes it, and what AWS is asked for. The local stack, the sweep, `./spine` and
//! the documentation read it; `template.yaml` says the same to AWS, and a test compares the two (tests/it/template.rs).

use std::time::Duration;

/// A queue of messages that wake workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// What it is called.
    pub name: &'static str,
    /// The variable that holds its URL.
    pub variable: &'static str,
    /// What its resources are called in the template, before `Queue`, `QueueAgeAlarm`, `DeadLetters` and `DeadLettersAlarm`.
    pub resource: &'static str,
    /// What its alarms are called, before `-queue-age` and `-dead-letters`.
    pub alarm: &'static str,
    /// How old a message may become before an alarm sounds.
    pub oldest: Duration,
}

/// What a function's schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// What `./spine trigger` calls it.
    pub name: &'static str,
    /// How often it ticks.
    pub every: Duration,
}

/// A function resource: one binary may be several, with other sizes.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// The resource's name.
    pub name: &'static str,
    /// The package, its folder in `functions/`, and the binary.
    pub binary: &'static str,
    /// The size that the binary's zip stays below, in MB.
    pub zipped_mb: u32,
    /// Path prefixes of the HTTP API that lead to it.
    pub routes: &'static [&'static str],
    /// The kinds of jobs that it does.
    pub jobs: &'static [&'static str],
    /// The queue whose messages it works on. Without one, its schedule finds its jobs.
    pub queue: Option<Queue>,
    /// The setting that pauses its jobs where it is not `true`.
    pub switch: Option<&'static str>,
    /// The queues that it sends messages to.
    pub sends: &'static [Queue],
    /// What else wakes it.
    pub schedule: Option<Schedule>,
    /// When an invocation is cut off.
    pub timeout: Duration,
    /// Its memory, and with it its share of a processor.
    pub memory_mb: u32,
    /// How many messages an invocation is given at most.
    pub batch: usize,
    /// How many invocations run at once on this machine.
    pub concurrency: usize,
    /// What the alarm on its errors is called, before `-errors`.
    pub alarm: &'static str,
}

/// The queue of renders.
pub const RENDERS: Queue = Queue {
    name: "renders",
    variable: "RENDER_QUEUE_URL",
    resource: "Render",
    alarm: "render",
    oldest: Duration::from_mins(15),
};

/// The queue of leads to be assigned.
pub const LEADS: Queue = Queue {
    name: "leads",
    variable: "LEAD_QUEUE_URL",
    resource: "Lead",
    alarm: "lead",
    oldest: Duration::from_mins(15),
};

/// The queue of insights.
pub const INSIGHTS: Queue = Queue {
    name: "insights",
    variable: "INSIGHTS_QUEUE_URL",
    resource: "Insights",
    alarm: "insights",
    oldest: Duration::from_hours(6),
};

/// The queue of what is written to books.
pub const ACCOUNTING: Queue = Queue {
    name: "accounting",
    variable: "ACCOUNTING_QUEUE_URL",
    resource: "Accounting",
    alarm: "accounting",
    oldest: Duration::from_hours(1),
};

/// The queue of readings of Fortnox.
pub const FORTNOX: Queue = Queue {
    name: "fortnox",
    variable: "FORTNOX_QUEUE_URL",
    resource: "Fortnox",
    alarm: "fortnox",
    oldest: Duration::from_mins(30),
};

/// The queue of what social platforms deliver.
pub const SOCIAL_EVENTS: Queue = Queue {
    name: "social-events",
    variable: "SOCIAL_EVENTS_QUEUE_URL",
    resource: "SocialEvents",
    alarm: "social-events",
    oldest: Duration::from_mins(15),
};

/// The queue of readings of social accounts.
pub const SOCIAL: Queue = Queue {
    name: "social",
    variable: "SOCIAL_QUEUE_URL",
    resource: "Social",
    alarm: "social",
    oldest: Duration::from_mins(30),
};

/// The queue of replies in social threads.
pub const SOCIAL_REPLIES: Queue = Queue {
    name: "social-replies",
    variable: "SOCIAL_REPLIES_QUEUE_URL",
    resource: "SocialReplies",
    alarm: "social-replies",
    oldest: Duration::from_mins(15),
};

/// The queue of files of social messages.
pub const SOCIAL_ATTACHMENTS: Queue = Queue {
    name: "social-attachments",
    variable: "SOCIAL_ATTACHMENTS_QUEUE_URL",
    resource: "SocialAttachments",
    alarm: "social-attachments",
    oldest: Duration::from_mins(30),
};

/// The queue of social messages that an agent is to score or to draft answers to.
pub const SOCIAL_AI: Queue = Queue {
    name: "social-ai",
    variable: "SOCIAL_AI_QUEUE_URL",
    resource: "SocialAi",
    alarm: "social-ai",
    oldest: Duration::from_hours(1),
};

/// All queues.
pub const QUEUES: [Queue; 10] = [
    RENDERS,
    LEADS,
    INSIGHTS,
    FORTNOX,
    ACCOUNTING,
    SOCIAL_EVENTS,
    SOCIAL,
    SOCIAL_REPLIES,
    SOCIAL_ATTACHMENTS,
    SOCIAL_AI,
];

/// How long a function behind the HTTP API may take, which gives up after 30 s.
const HTTP_TIMEOUT: Duration = Duration::from_secs(29);
const EVERY_MINUTE: Duration = Duration::from_mins(1);

/// All functions.
pub const FUNCTIONS: [Function; 26] = [
    Function {
        name: "AccountingWritesHttp",
        routes: &["/v1/approvals", "/v1/accounting"],
        sends: &[ACCOUNTING],
        alarm: "accounting-http",
        ..function("accounting_writes", 6)
    },
    Function {
        name: "AccountingWritesWorker",
        jobs: &["accounting_write", "accounting_reconcile", "accounting_payments"],
        queue: Some(ACCOUNTING),
        switch: Some("accounting.enabled"),
        // Its schedule sends nothing; what it queues, the sweep sends.
        schedule: Some(Schedule { name: "accounting", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(120),
        concurrency: 4,
        alarm: "accounting-worker",
        ..function("accounting_writes", 6)
    },
    Function {
        name: "AssignLeadsHttp",
        routes: &["/v1/leads"],
        sends: &[LEADS],
        alarm: "leads-http",
        ..function("assign_leads", 6)
    },
    Function {
        name: "AssignLeadsWorker",
        jobs: &["lead_assign"],
        queue: Some(LEADS),
        switch: Some("leads.enabled"),
        // Its schedule sends what it finds.
        sends: &[LEADS],
        schedule: Some(Schedule { name: "leads", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(120),
        concurrency: 2,
        alarm: "leads-worker",
        ..function("assign_leads", 6)
    },
    Function {
        name: "FetchSocialUpdatesHttp",
        routes: &["/v1/social/accounts"],
        sends: &[SOCIAL],
        alarm: "social-fetch-http",
        ..function("fetch_social_updates", 6)
    },
    Function {
        name: "FetchSocialUpdatesWorker",
        jobs: &["social_fetch"],
        queue: Some(SOCIAL),
        switch: Some("social.enabled"),
        sends: &[SOCIAL, SOCIAL_ATTACHMENTS],
        schedule: Some(Schedule { name: "social", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(120),
        concurrency: 4,
        alarm: "social-fetch-worker",
        ..function("fetch_social_updates", 6)
    },
    Function {
        name: "FortnoxOauthCallback",
        routes: &["/oauth/fortnox", "/v1/fortnox/connection"],
        alarm: "fortnox-oauth",
        ..function("fortnox_oauth_callback", 6)
    },
    Function {
        name: "FortnoxSyncHttp",
        routes: &["/v1/fortnox/sync", "/v1/fortnox/customers"],
        sends: &[FORTNOX],
        alarm: "fortnox-sync-http",
        ..function("fortnox_sync", 6)
    },
    Function {
        name: "FortnoxSyncWorker",
        jobs: &["fortnox_sync"],
        queue: Some(FORTNOX),
        switch: Some("fortnox.enabled"),
        sends: &[FORTNOX],
        schedule: Some(Schedule { name: "fortnox", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(120),
        concurrency: 2,
        alarm: "fortnox-sync-worker",
        ..function("fortnox_sync", 6)
    },
    Function {
        name: "ProcessRenderRequestHttp",
        routes: &["/v1/uploads", "/v1/render-requests"],
        sends: &[RENDERS],
        concurrency: 16,
        alarm: "render-http",
        ..function("process_render_request", 10)
    },
    Function {
        name: "ProcessRenderRequestWorker",
        jobs: &["render"],
        queue: Some(RENDERS),
        switch: Some("renders.enabled"),
        timeout: Duration::from_secs(300),
        // One whole processor: it decodes and encodes pictures.
        memory_mb: 1769,
        concurrency: 4,
        alarm: "render-worker",
        ..function("process_render_request", 10)
    },
    Function {
        name: "GenerateAiInsightsHttp",
        routes: &["/v1/insights"],
        sends: &[INSIGHTS],
        alarm: "insights-http",
        ..function("generate_ai_insights", 6)
    },
    Function {
        name: "GenerateAiInsightsWorker",
        jobs: &["insight"],
        queue: Some(INSIGHTS),
        switch: Some("insights.enabled"),
        sends: &[INSIGHTS],
        schedule: Some(Schedule { name: "insights", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(180),
        concurrency: 2,
        alarm: "insights-worker",
        ..function("generate_ai_insights", 6)
    },
    Function { name: "Inbox", routes: &["/v1/inbox"], alarm: "inbox", ..function("inbox", 6) },
    Function { name: "Jobs", routes: &["/v1/jobs"], alarm: "jobs", ..function("jobs", 6) },
    Function {
        name: "KeepSocialAttachments",
        jobs: &["social_attachments"],
        queue: Some(SOCIAL_ATTACHMENTS),
        switch: Some("social.enabled"),
        sends: &[SOCIAL_ATTACHMENTS],
        timeout: Duration::from_secs(120),
        // A file is in memory while it is fetched and stored.
        memory_mb: 512,
        concurrency: 2,
        alarm: "social-attachments",
        ..function("keep_social_attachments", 10)
    },
    Function {
        name: "RecordAgentAction",
        routes: &["/v1/agent-actions"],
        alarm: "agent-actions",
        ..function("record_agent_action", 10)
    },
    Function {
        name: "SendSocialRepliesHttp",
        routes: &["/v1/social/replies"],
        sends: &[SOCIAL_REPLIES],
        alarm: "social-replies-http",
        ..function("send_social_replies", 6)
    },
    Function {
        name: "SendSocialRepliesWorker",
        jobs: &["social_reply"],
        queue: Some(SOCIAL_REPLIES),
        switch: Some("social.enabled"),
        timeout: Duration::from_secs(60),
        concurrency: 2,
        alarm: "social-replies-worker",
        ..function("send_social_replies", 6)
    },
    Function {
        name: "SocialOauthCallback",
        routes: &["/oauth/instagram", "/oauth/tiktok", "/oauth/tiktok-business", "/v1/social/connections"],
        sends: &[SOCIAL],
        alarm: "social-oauth",
        ..function("social_oauth_callback", 6)
    },
    Function {
        name: "SocialWebhookHttp",
        routes: &["/webhooks/meta", "/webhooks/tiktok"],
        sends: &[SOCIAL_EVENTS],
        concurrency: 16,
        alarm: "social-webhook-http",
        ..function("social_webhook", 6)
    },
    Function {
        name: "SocialWebhookWorker",
        jobs: &["social_events"],
        queue: Some(SOCIAL_EVENTS),
        switch: Some("social.enabled"),
        sends: &[SOCIAL_EVENTS, SOCIAL, SOCIAL_ATTACHMENTS],
        timeout: Duration::from_secs(60),
        concurrency: 2,
        alarm: "social-webhook-worker",
        ..function("social_webhook", 6)
    },
    Function {
        name: "StripeWebhookHttp",
        routes: &["/webhooks/stripe", "/v1/billing"],
        alarm: "stripe-http",
        ..function("stripe_webhook", 6)
    },
    Function {
        name: "StripeWebhookReconcile",
        jobs: &["stripe_settle", "stripe_claim", "stripe_plan"],
        schedule: Some(Schedule { name: "reconcile", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(300),
        concurrency: 1,
        alarm: "stripe-reconcile",
        ..function("stripe_webhook", 6)
    },
    Function {
        name: "Sweep",
        sends: &QUEUES,
        schedule: Some(Schedule { name: "sweep", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(55),
        concurrency: 1,
        alarm: "sweep",
        ..function("sweep", 10)
    },
    Function {
        name: "UnderstandSocialMessagesWorker",
        jobs: &["social_sentiment", "social_draft"],
        queue: Some(SOCIAL_AI),
        switch: Some("social.enabled"),
        // Its schedule sends what it finds, and a job that goes on wakes itself.
        sends: &[SOCIAL_AI],
        schedule: Some(Schedule { name: "social-ai", every: EVERY_MINUTE }),
        timeout: Duration::from_secs(120),
        concurrency: 2,
        alarm: "social-ai-worker",
        ..function("understand_social_messages", 6)
    },
];

/// What most functions have: small, and behind the HTTP API.
const fn function(binary: &'static str, zipped_mb: u32) -> Function {
    Function {
        name: "",
        binary,
        zipped_mb,
        routes: &[],
        jobs: &[],
        queue: None,
        switch: None,
        sends: &[],
        schedule: None,
        timeout: HTTP_TIMEOUT,
        memory_mb: 256,
        batch: 1,
        concurrency: 8,
        alarm: "",
    }
}

/// The function that does jobs of a kind.
#[must_use]
pub fn worker_of(job_type: &str) -> Option<&'static Function> {
    const ALL: &[Function] = &FUNCTIONS;
    ALL.iter().find(|function| function.jobs.contains(&job_type))
}
