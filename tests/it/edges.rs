//! Every comparison with the clock, with a row just before the instant that it compares with, on it and just after.
//!
//! Each is then made wrong in the database, by another operator or by leaving it out, and its rows must notice.

use std::collections::BTreeSet;

use integration_tests::{
    Server, TestDatabase,
    acting::{Actor, Refusal},
    people::{DAN, DORA, NORD, OLGA, RENATA},
};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use uuid::Uuid;

/// The id of each row that a case makes.
const ID: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0009_0001);

/// A comparison of a function with the clock.
struct Edge {
    /// The function.
    of: &'static str,
    /// The comparison, as its text has it.
    compared: &'static str,
    /// The instant at which the answer becomes another.
    instant: &'static str,
    /// Makes a row whose time is `{at}`.
    arrange: String,
    /// Who asks.
    actor: fn() -> Actor,
    /// The question, of one text. What follows `;;` is asked by the superuser afterwards, instead of what the question answered.
    asks: &'static str,
    /// What is answered before the instant, on it, and after; a refusal is answered by its code.
    answers: [&'static str; 3],
}

fn directory() -> Actor {
    Actor::role("spine_service")
}

fn service() -> Actor {
    Actor::service(NORD)
}

/// The owner of functions that no other role may call.
fn definer() -> Actor {
    Actor::role("spine_definer")
}

fn olga() -> Actor {
    Actor::person(&OLGA)
}

fn in_session() -> Actor {
    Actor { role: "spine_definer", ..Actor::in_session(&DORA, ID).with("org_id", json!(NORD)) }
}

/// An agent whose token is the letter t.
fn renata() -> Actor {
    let hash = hex::encode(Sha256::digest("t"));
    Actor { claims: json!({ "agent_token_sha256": hash }), ..Actor::role("spine_agent") }
}

fn dan() -> Actor {
    Actor::person(&DAN).with("email", json!(DAN.email))
}

fn edge(
    of: &'static str,
    (compared, instant): (&'static str, &'static str),
    arrange: impl Into<String>,
    actor: fn() -> Actor,
    asks: &'static str,
    answers: [&'static str; 3],
) -> Edge {
    Edge { of, compared, instant, arrange: arrange.into(), actor, asks, answers }
}

const SESSION: &str = "insert into user_sessions (id, user_id, expires_at) values ('{id}', '{DORA}', {at})";
const ENDS: (&str, &str) = ("s.expires_at <= now()", "now()");
const QUEUED: &str = "insert into jobs (id, org_id, job_type, run_after) values ('{id}', '{NORD}', 'render', {at})";
const RUNNING: &str = "insert into jobs (id, org_id, job_type, status, lease_token, lease_until) values ('{id}', '{NORD}', 'render', 'running', '{id}', {at})";
const RESERVED: &str = "insert into jobs (id, org_id, job_type) values ('{id}', '{NORD}', 'render');
    insert into usage_reservations (id, org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
    values ('{id}', '{NORD}', '{id}', 'renderer', 1, 1, 1, '[]', {at})";
const RESERVED_AT_WORK: &str = "insert into jobs (id, org_id, job_type, status, lease_token, lease_until) values ('{id}', '{NORD}', 'render', 'running', '{id}', {at});
    insert into usage_reservations (id, org_id, job_id, agent, requests, tokens, cost_micro_usd, windows, expires_at)
    values ('{id}', '{NORD}', '{id}', 'renderer', 1, 1, 1, '[]', now() - interval '1 hour')";
const PROPOSED: &str = "insert into approvals (id, org_id, kind, subject_table, subject_id, payload_digest, expires_at) values ('{id}', '{NORD}', 'message', 't', '{id}', sha256('p'), {at})";
const APPROVED: &str = "insert into approvals (id, org_id, kind, subject_table, subject_id, payload_digest, expires_at, status, decided_at)
    values ('{id}', '{NORD}', 'message', 't', '{id}', sha256('p'), now() + interval '1 day', 'approved', {at})";
const INVITED: &str = "insert into invitations (id, org_id, kind, email, token_hash, role_id, invited_by, expires_at)
    select '{id}', '{NORD}', 'member', '{DAN.email}', sha256('t'), '00000000-0000-7000-8000-000000000004', '{OLGA}', {at}";
const ACCOUNT: &str = "insert into social_accounts (id, org_id, platform, platform_id, username, fetch_after, consent_ends_at, connected_at, app_scoped_id)
    values ('{id}', '{NORD}', 'instagram', '1', 'nord', {at}, {at}, {at}, '2')";
const FORTNOX: &str = "insert into org_integrations (id, org_id, provider, status, grant_type, issued_at, sync_after) values ('{id}', '{NORD}', 'fortnox', 'connected', 'refresh_token', {at}, {at})";
const SYNCED: &str = "insert into fortnox_sync_state (org_id, tenant, payments_after, reconcile_after) values ('{NORD}', 't', {at}, {at})";
const DONE: &str =
    "insert into projects (id, org_id, title, status, updated_at) values ('{id}', '{NORD}', 'p', 'done', {at})";
const RENDERED: &str = "insert into projects (id, org_id, title, status, updated_at) values ('{id}', '{NORD}', 'p', 'done', now() - interval '1 year');
    insert into render_requests (org_id, project_id, job_id, input_file_path, model, status, created_at) values ('{NORD}', '{id}', '{id}', 'project-media/{NORD}/uploads/{id}', 'm', 'completed', {at})";
/// A lead of a fortnight ago, which offers 100 SEK, and another, of which one time is `{at}`: when it was won, or when it came; or when there was
/// a note of the first, or contact.
fn beside(time: &str) -> String {
    let at = |name: &str, else_at: &'static str| if name == time { "{at}" } else { else_at };
    "delete from leads;
     insert into leads (id, org_id, client_name, budget_minor, currency, created_at, last_contact_at)
     values ('{id}', '{NORD}', 'n', 10000, 'SEK', now() - interval '336 hours', {contact});
     insert into leads (org_id, client_name, status, closed_at, created_at, budget_minor, currency)
     values ('{NORD}', 'n', '{status}', {closed}, {created}, 20000, 'SEK');
     insert into lead_notes (org_id, lead_id, note, created_at) values ('{NORD}', '{id}', 'n', {noted})"
        .replace("{status}", if time == "closed" { "won" } else { "new" })
        .replace("{closed}", at("closed", "null"))
        .replace("{created}", at("created", "now() + interval '1 day'"))
        .replace("{noted}", at("noted", "now() + interval '1 day'"))
        .replace("{contact}", at("contact", "null"))
}

/// A job to assign a lead, which waits since then and until then, and a person who could have the lead.
fn waiting_lead(since: &str, until: &str) -> String {
    "delete from leads;
     insert into leads (id, org_id, client_name) values ('{id}', '{NORD}', 'n');
     insert into lead_capacity (org_id, user_id, max_open) values ('{NORD}', '{OLGA}', 9);
     insert into jobs (org_id, job_type, unique_key, payload, run_after, wait_reason)
     values ('{NORD}', 'lead_assign', '{id}', '{\"lead_id\": \"{id}\"}', {until}, jsonb_build_object('reason', 'everybody_full', 'at', {since}))"
        .replace("{since}", since)
        .replace("{until}", until)
}

/// An event that was received and not yet read.
fn event(provider: &str) -> String {
    "insert into webhook_events (id, org_id, provider, event_id, raw, status, received_at) values ('{id}', '{NORD}', '{provider}', 'e', '', 'received', {at})"
        .replace("{provider}", provider)
}

const MAILED: &str = "insert into outbox (org_id, kind, destination, payload, next_attempt_at) values ('{NORD}', 'mail', '{id}', '{\"kind\": \"invitation\"}', {next})";
const SPENT: &str = "update organizations set stripe_customer_id = 'cus_1' where id = '{NORD}';
    insert into stripe_objects (org_id, stripe_id, kind, facts, terminal, observed_at, rank, digest, told_by, created_at)
    values ('{NORD}', 'cus_1', 'customer', '{}', false, now(), 1, '', '{id}', now() - interval '1 year');
    insert into billing_events (org_id, kind, quantity, cost_micro_usd, source_table, source_id, metered, created_at) values ('{NORD}', 'render', 1, 1, 't', '{id}', true, {at})";
const TALKED: &str = "insert into social_accounts (id, org_id, platform, api, platform_id, username, scopes)
    values ('{id}', '{NORD}', 'instagram', 'instagram_login', '1', 'nord', '{instagram_business_basic,instagram_business_manage_messages}');
    insert into social_ai_settings (org_id, drafts, agent_id) values ('{NORD}', 'messages', '{RENATA}');
    select app.ensure_social_month({at});
    insert into social_threads (id, org_id, account_id, thread_id, kind, last_message_at, last_incoming_at) values ('{id}', '{NORD}', '{id}', 't', 'message', {at}, {at});
    insert into social_messages (id, org_id, account_id, thread_id, message_type, direction, content, received_at, platform_id)
    values ('{id}', '{NORD}', '{id}', 't', 'message', 'in', 'hej', {at}, '1')";
const SLOTS: &str = "insert into fortnox_pace (org_id) values ('{NORD}');
    insert into fortnox_call_slots (org_id, slot, side, free_at) select '{NORD}', n, 'read', {at} from generate_series(1, 25) n";

fn edges() -> Vec<Edge> {
    vec![
    edge("app.standing_uid", ENDS, SESSION, in_session, "select (app.standing_uid() is not null)::text", ["false", "false", "true"]),
    edge("app.standing", ENDS, SESSION, in_session, "select app.standing(null)::text", ["null", "null", "{NORD}"]),
    edge("app.signed_in", ENDS, SESSION, in_session, "select app.signed_in()::text", ["session_revoked", "session_revoked", "{DORA}"]),
    edge(
        "app.custom_access_token_hook",
        ENDS,
        SESSION,
        definer,
        "select (app.custom_access_token_hook(jsonb_build_object('user_id', '{DORA}', 'claims', jsonb_build_object('session_id', '{id}'))) ? 'error')::text",
        ["true", "true", "false"],
    ),
    edge("app.due_jobs", ("j.run_after <= now()", "now()"), QUEUED, directory, "select count(*)::text from app.due_jobs(9)", ["1", "1", "0"]),
    edge("app.due_jobs", ("j.lease_until <= now()", "now()"), RUNNING, directory, "select count(*)::text from app.due_jobs(9)", ["1", "1", "0"]),
    edge("app.due_jobs_of", ("j.run_after <= now()", "now()"), QUEUED, directory, "select count(*)::text from app.due_jobs_of('{render}', 9)", ["1", "1", "0"]),
    edge("app.due_jobs_of", ("j.lease_until <= now()", "now()"), RUNNING, directory, "select count(*)::text from app.due_jobs_of('{render}', 9)", ["1", "1", "0"]),
    edge(
        "app.release_waiting_jobs",
        ("j.run_after > now()", "now()"),
        "insert into jobs (id, org_id, job_type, run_after, wait_reason) values ('{id}', '{NORD}', 'render', {at}, '{\"reason\": \"paused\"}')",
        directory,
        "select app.release_waiting_jobs()::text",
        ["0", "0", "1"],
    ),
    edge(
        "app.waiting_lead_orgs",
        ("j.run_after > now()", "now()"),
        "insert into jobs (id, org_id, job_type, run_after, wait_reason) values ('{id}', '{NORD}', 'lead_assign', {at}, '{}')",
        definer,
        "select count(*)::text from app.waiting_lead_orgs(9)",
        ["0", "0", "1"],
    ),
    edge("app.expired_reservations", ("r.expires_at <= now()", "now()"), RESERVED, directory, "select count(*)::text from app.expired_reservations(9)", ["1", "1", "0"]),
    edge("app.expired_reservations", ("j.lease_until > now()", "now()"), RESERVED_AT_WORK, directory, "select count(*)::text from app.expired_reservations(9)", ["1", "1", "0"]),
    edge("app.refund_usage", ("x.expires_at <= now()", "now()"), RESERVED, service, "select app.refund_usage('{id}', 'expired')::text", ["true", "true", "false"]),
    edge("app.refund_usage", ("j.lease_until > now()", "now()"), RESERVED_AT_WORK, service, "select app.refund_usage('{id}', 'expired')::text", ["true", "true", "false"]),
    edge(
        "app.forget_idempotency_keys",
        ("created_at < now() - interval '1 day'", "now() - interval '1 day'"),
        "insert into idempotency_keys (org_id, actor_id, key, operation, request_hash, resource_id, created_at) values ('{NORD}', '{DORA}', 'k', 'o', '', '{id}', {at})",
        directory,
        "select app.forget_idempotency_keys()::text",
        ["1", "0", "0"],
    ),
    edge(
        "app.due_mail_orgs",
        ("w.since <= now()", "now()"),
        "insert into outbox (org_id, kind, destination, payload, next_attempt_at) values ('{NORD}', 'mail', 'd', '{}', {at})",
        directory,
        "select count(*)::text from app.due_mail_orgs(9)",
        ["1", "1", "0"],
    ),
    edge(
        "app.due_outbox_orgs",
        ("w.since <= now()", "now()"),
        "insert into outbox (org_id, kind, destination, payload, next_attempt_at) values ('{NORD}', 'document', 'd', '{}', {at})",
        directory,
        "select count(*)::text from app.due_outbox_orgs(9)",
        ["1", "1", "0"],
    ),
    edge("accept_invitation", ("i.expires_at <= now()", "now()"), INVITED, dan, "select public.accept_invitation('t')::text", ["invitation_ended", "invitation_ended", "{NORD}"]),
    edge(
        "create_invitation",
        ("i.expires_at > now()", "now()"),
        "insert into invitations (org_id, kind, email, token_hash, role_id, invited_by, expires_at)
         select '{NORD}', 'member', 'a' || n || '@x.example', sha256(n::text::bytea), '00000000-0000-7000-8000-000000000004', '{OLGA}', {at} from generate_series(1, 500) n",
        olga,
        "select (public.create_invitation('member', 'b@x.example', '00000000-0000-7000-8000-000000000004') is not null)::text",
        ["true", "true", "too_many_invitations"],
    ),
    edge(
        "issue_agent_token",
        ("expires_at <= now()", "now()"),
        "",
        olga,
        "select count(*)::text from public.issue_agent_token('{RENATA}', expires_at => {at})",
        ["expires_at_past", "expires_at_past", "1"],
    ),
    edge("app.age_approvals", ("a.expires_at <= now()", "now()"), PROPOSED, service, "select expired::text from app.age_approvals()", ["1", "1", "0"]),
    edge(
        "app.age_approvals",
        ("a.decided_at <= now() - interval '1 hour'", "now() - interval '1 hour'"),
        APPROVED,
        service,
        "select overdue::text from app.age_approvals()",
        ["1", "1", "0"],
    ),
    edge("app.ageing_approvals", ("a.expires_at <= now()", "now()"), PROPOSED, directory, "select count(*)::text from app.ageing_approvals()", ["1", "1", "0"]),
    edge(
        "app.ageing_approvals",
        ("a.decided_at <= now() - interval '1 hour'", "now() - interval '1 hour'"),
        APPROVED,
        directory,
        "select count(*)::text from app.ageing_approvals()",
        ["1", "1", "0"],
    ),
    edge(
        "app.count_approvals",
        ("a.began_at < now() - interval '15 minutes'", "now() - interval '15 minutes'"),
        "insert into approvals (id, org_id, kind, subject_table, subject_id, payload_digest, expires_at, status, decided_at, began_at)
         values ('{id}', '{NORD}', 'message', 't', '{id}', sha256('p'), now() + interval '1 day', 'executing', now(), {at})",
        directory,
        "select unknown::text from app.count_approvals()",
        ["1", "0", "0"],
    ),
    edge(
        "app.unscored_leads",
        ("l.created_at > now() - interval '7 days'", "now() - interval '7 days'"),
        "insert into leads (id, org_id, client_name, created_at) values ('{id}', '{NORD}', 'n', {at})",
        directory,
        "select count(*)::text from app.unscored_leads(9)",
        ["0", "0", "1"],
    ),
    edge(
        "app.lead_score_report",
        ("l.closed_at > now() - interval '1 year'", "now() - interval '1 year'"),
        "insert into leads (id, org_id, client_name, status, closed_at) values ('{id}', '{NORD}', 'n', 'won', {at})",
        definer,
        "select app.lead_score_report('{NORD}') ->> 'unscored'",
        ["0", "0", "1"],
    ),
    edge(
        "app.lead_score",
        ("x.closed_at <= p_now", "now()"),
        beside("closed"),
        definer,
        "select factors #>> '{outcomes,value}' from app.lead_score('{NORD}', '{id}', now())",
        ["0.5868", "0.5868", "0.5000"],
    ),
    edge(
        "app.lead_score",
        ("x.created_at <= p_now", "now()"),
        beside("created"),
        definer,
        "select factors #>> '{budget,value}' from app.lead_score('{NORD}', '{id}', now())",
        ["0.2500", "0.2500", "0.5000"],
    ),
    edge(
        "app.lead_score",
        ("n.created_at <= p_now", "now()"),
        beside("noted"),
        definer,
        "select factors #>> '{engagement,value}' from app.lead_score('{NORD}', '{id}', now())",
        ["0.2000", "0.2000", "0.0000"],
    ),
    edge(
        "app.lead_score",
        ("l.last_contact_at <= p_now", "now()"),
        beside("contact"),
        definer,
        "select factors #>> '{recency,value}' from app.lead_score('{NORD}', '{id}', now())",
        ["1.0000", "1.0000", "0.5000"],
    ),
    edge(
        "app.check_lead_end",
        ("new.closed_at > now()", "now()"),
        "insert into leads (id, org_id, client_name) values ('{id}', '{NORD}', 'n')",
        olga,
        "update public.leads set status = 'won', closed_at = {at} where id = '{id}' returning status",
        ["won", "won", "lead_end_in_future"],
    ),
    edge(
        "app.idle_fortnox_tokens",
        ("i.issued_at < p_now - interval '20 days'", "now() - interval '20 days'"),
        FORTNOX,
        directory,
        "select count(*)::text from app.idle_fortnox_tokens(now(), 9)",
        ["1", "0", "0"],
    ),
    edge("app.due_fortnox_syncs", ("i.sync_after <= p_now", "now()"), FORTNOX, directory, "select count(*)::text from app.due_fortnox_syncs(now(), 9)", ["1", "1", "0"]),
    edge(
        "app.queue_payment_reads",
        ("s.payments_after <= now()", "now()"),
        SYNCED,
        directory,
        "select app.queue_payment_reads(9)::text;; select (payments_after <> {at})::text from fortnox_sync_state",
        ["true", "true", "false"],
    ),
    edge(
        "app.queue_reconciliations",
        ("s.reconcile_after <= now()", "now()"),
        SYNCED,
        directory,
        "select app.queue_reconciliations(9)::text;; select (reconcile_after <> {at})::text from fortnox_sync_state",
        ["true", "true", "false"],
    ),
    edge("app.call_slot_wait", ("s.free_at > p_now", "now()"), SLOTS, definer, "select app.call_slot_wait('{NORD}', 'read', now())::text", ["0", "0", "1"]),
    edge("app.due_social_fetches", ("a.fetch_after <= p_now", "now()"), ACCOUNT, directory, "select count(*)::text from app.due_social_fetches(now(), 9)", ["1", "1", "0"]),
    edge("app.social_accounts_of", ("a.connected_at <= p_at", "now()"), ACCOUNT, directory, "select count(*)::text from app.social_accounts_of('2', now())", ["1", "1", "0"]),
    edge(
        "app.warn_of_ending_consents",
        ("x.consent_ends_at <= p_now + interval '14 days'", "now() + interval '14 days'"),
        ACCOUNT,
        directory,
        "select app.warn_of_ending_consents(now(), 9)::text",
        ["1", "1", "0"],
    ),
    edge(
        "app.requeue_social_events",
        ("w.received_at < now() - interval '1 minute'", "now() - interval '1 minute'"),
        event("meta"),
        directory,
        "select count(*)::text from app.requeue_social_events(9)",
        ["1", "0", "0"],
    ),
    edge(
        "app.left_stripe_events",
        ("e.received_at < now() - interval '1 minute'", "now() - interval '1 minute'"),
        event("stripe"),
        directory,
        "select count(*)::text from app.left_stripe_events(9)",
        ["1", "0", "0"],
    ),
    edge(
        "app.unclear_stripe_events",
        ("e.received_at > now() - interval '30 days'", "now() - interval '30 days'"),
        "insert into webhook_events (id, provider, event_id, raw, status, received_at) values ('{id}', 'stripe', 'e', '', 'received', {at})",
        directory,
        "select count(*)::text from app.unclear_stripe_events(9)",
        ["0", "0", "1"],
    ),
    edge(
        "app.stale_stripe_objects",
        ("s.compared_at < now() - interval '1 day'", "now() - interval '1 day'"),
        "insert into stripe_objects (org_id, stripe_id, kind, facts, terminal, observed_at, rank, digest, told_by, compared_at)
         values ('{NORD}', 'in_1', 'invoice', '{}', false, now(), 1, '', '{id}', {at})",
        directory,
        "select count(*)::text from app.stale_stripe_objects(9)",
        ["1", "0", "0"],
    ),
    edge(
        "app.begin_reconciliation",
        ("r.started_at > now() - p_every", "now() - interval '10 minutes'"),
        "insert into billing_reconciliations (since, until, started_at, finished_at) values (now() - interval '1 day', now(), {at}, now())",
        directory,
        "select (id is not null)::text from app.begin_reconciliation('10 minutes', now())",
        ["true", "true", "false"],
    ),
    edge(
        "app.begin_reconciliation",
        ("r.until > p_now - interval '1 hour'", "now() - interval '1 hour'"),
        "insert into billing_reconciliations (since, until, started_at, finished_at) values (now() - interval '1 day', {at}, now(), now())",
        directory,
        "select (id is not null)::text from app.begin_reconciliation('10 minutes', now())",
        ["true", "true", "false"],
    ),
    edge(
        "app.stripe_owner",
        ("c.expires_at > now()", "now()"),
        "insert into billing_checkouts (id, org_id, stripe_price_id, success_url, cancel_url, created_by, status, expires_at)
         values ('{id}', '{NORD}', 'price_1', 'https://a.example', 'https://a.example', '{OLGA}', 'creating', {at})",
        directory,
        "select app.stripe_owner('sub_1', array['checkout:{id}'])::text",
        ["null", "null", "{NORD}"],
    ),
    edge(
        "app.miss_model",
        ("m.missed_at < now() - interval '1 minute'", "now() - interval '1 minute'"),
        "update models set missed_at = {at} where model = 'gemini-3-pro-image'",
        directory,
        "select app.miss_model('gemini', 'gemini-3-pro-image')::text;; select (missed_at = now())::text from models where model = 'gemini-3-pro-image'",
        ["true", "false", "false"],
    ),
    edge(
        "app.notice_ending_models",
        ("m.retires_at <= now() + interval '30 days'", "now() + interval '30 days'"),
        "update models set noticed_end = null, retires_at = case when model = 'gemini-3-pro-image' then {at} end",
        directory,
        "select count(*)::text from app.notice_ending_models()",
        ["1", "1", "0"],
    ),
    edge(
        "archive_old_projects",
        ("p.updated_at > now() - interval '30 days'", "now() - interval '30 days'"),
        DONE,
        olga,
        "select reason from public.archive_old_projects('{id}')",
        ["archived", "archived", "recently_changed"],
    ),
    edge(
        "archive_old_projects",
        ("r.created_at > now() - interval '30 days'", "now() - interval '30 days'"),
        RENDERED,
        olga,
        "select reason from public.archive_old_projects('{id}')",
        ["archived", "archived", "recently_rendered"],
    ),
    edge(
        "app.ensure_social_month",
        ("p_at > now() + interval '1 day'", "now() + interval '1 day'"),
        "",
        directory,
        "select app.ensure_social_month({at})::text;; select '1'",
        ["1", "1", "received_at_out_of_range"],
    ),
    edge(
        "app.retry_payment_vouchers",
        ("u.created_at < now() - interval '30 days'", "now() - interval '30 days'"),
        "insert into unproposed_vouchers (org_id, source_key, client_id, problems, payment, created_at) values ('{NORD}', 'k', '{id}', '[]', '{}', {at})",
        service,
        "select app.retry_payment_vouchers(0)::text;; select count(*)::text from unproposed_vouchers",
        ["0", "1", "1"],
    ),
    edge(
        "app.requeue_social_attachments",
        ("a.next_at < now() - interval '1 minute'", "now() - interval '1 minute'"),
        "insert into social_attachments (org_id, account_id, message_id, kind, source_key, status, next_at) values ('{NORD}', '{id}', '{id}', 'image', 'k', 'waiting', {at})",
        directory,
        "select app.requeue_social_attachments(9)::text",
        ["1", "0", "0"],
    ),
        edge(
            "app.agent_token",
            ("t.expires_at > now()", "now()"),
            "insert into agent_tokens (id, org_id, agent_id, token_hash, expires_at) values ('{id}', '{NORD}', '{RENATA}', sha256('t'), {at})",
            renata,
            "select app.agent_id()::text",
            ["null", "null", "{RENATA}"],
        ),
        edge(
            "app.claim_mails",
            ("d.next_attempt_at <= now()", "now()"),
            MAILED.replace("{next}", "{at}"),
            service,
            "select count(*)::text from app.claim_mails(9)",
            ["1", "1", "0"],
        ),
        edge(
            "app.claim_mails",
            ("i.expires_at <= now()", "now()"),
            format!("{INVITED}; {MAILED}").replace("{next}", "now()"),
            service,
            "select dropped from app.claim_mails(9)",
            ["ended", "ended", "null"],
        ),
        edge(
            "app.claim_mails",
            ("o.created_at < now() - interval '3 days'", "now() - interval '3 days'"),
            format!("{}; {MAILED}; update outbox set created_at = {{at}}", INVITED.replace("{at}", "now() + interval '1 day'"))
                .replace("{next}", "now()"),
            service,
            "select dropped from app.claim_mails(9)",
            ["too_old", "null", "null"],
        ),
        edge(
            "app.claim_mails",
            ("x.delivered_at > now() - interval '1 day'", "now() - interval '1 day'"),
            format!(
                "{}; {MAILED}; insert into outbox (org_id, kind, destination, payload, delivered_at)
                 select '{{NORD}}', 'mail', 'd', '{{\"kind\": \"invitation\"}}', {{at}} from generate_series(1, 500)",
                INVITED.replace("{at}", "now() + interval '1 day'")
            )
            .replace("{next}", "now()"),
            service,
            "select dropped from app.claim_mails(9)",
            ["null", "null", "too_many"],
        ),
        edge(
            "app.claim_mails",
            ("x.delivered_at > now() - interval '1 hour'", "now() - interval '1 hour'"),
            "insert into notifications (id, org_id, user_id, kind, event) values ('{id}', '{NORD}', '{OLGA}', 'connection_needs_person', 'e');
             insert into outbox (org_id, kind, destination, payload)
             values ('{NORD}', 'mail', '{OLGA}', '{\"kind\": \"connection_needs_person\", \"notification_id\": \"{id}\"}');
             insert into outbox (org_id, kind, destination, payload, delivered_at) select '{NORD}', 'mail', '{OLGA}', '{}', {at} from generate_series(1, 50)",
            service,
            "select dropped from app.claim_mails(9)",
            ["null", "null", "too_many"],
        ),
        edge(
            "app.call_slot_wait",
            ("case p_side when 'read' then p.write_waits_until else p.read_waits_until end > p_now", "now()"),
            "insert into fortnox_pace (org_id, write_waits_until) values ('{NORD}', {at});
             insert into fortnox_call_slots (org_id, slot, side, free_at) select '{NORD}', n, 'read', now() + interval '1 second' from generate_series(1, 14) n",
            definer,
            "select app.call_slot_wait('{NORD}', 'read', now())::text",
            ["0", "0", "1000"],
        ),
        edge(
            "app.fortnox_night",
            ("n.began <= p_now", "app.fortnox_night('{NORD}', now())"),
            "",
            definer,
            "select (app.fortnox_night('{NORD}', {at}) = app.fortnox_night('{NORD}', now()))::text",
            ["false", "true", "true"],
        ),
        edge(
            "app.queue_social_attachments",
            ("j.run_after > now()", "now()"),
            "insert into jobs (id, org_id, job_type, unique_key, run_after) values ('{id}', '{NORD}', 'social_attachments', 'inbox', {at})",
            definer,
            "select app.queue_social_attachments('{NORD}')::text",
            ["null", "null", "{id}"],
        ),
        edge("app.unreported_costs", ("b.created_at < p_before", "now()"), SPENT, directory, "select count(*)::text from app.unreported_costs(now(), 9)", ["1", "0", "0"]),
        edge(
            "app.wake_leads_here",
            ("(j.wait_reason ->> 'at')::timestamptz < now() - interval '5 minutes'", "now() - interval '5 minutes'"),
            waiting_lead("{at}", "now() + interval '1 day'"),
            service,
            "select app.wake_leads_here()::text",
            ["1", "0", "0"],
        ),
        edge("app.wake_leads_here", ("j.run_after > now()", "now()"), waiting_lead("now() - interval '1 hour'", "{at}"), service, "select app.wake_leads_here()::text", ["0", "0", "1"]),
        edge(
            "app.wake_waiting_leads",
            ("(j.wait_reason ->> 'at')::timestamptz < now() - interval '5 minutes'", "now() - interval '5 minutes'"),
            waiting_lead("{at}", "now() + interval '1 day'"),
            definer,
            "select app.wake_waiting_leads()::text",
            ["1", "0", "0"],
        ),
        edge("app.wake_waiting_leads", ("j.run_after > now()", "now()"), waiting_lead("now() - interval '1 hour'", "{at}"), definer, "select app.wake_waiting_leads()::text", ["0", "0", "1"]),
        edge(
            "app.due_leads_of",
            ("j.finished_at > now() - interval '1 hour'", "now() - interval '1 hour'"),
            "delete from leads; insert into leads (id, org_id, client_name) values ('{id}', '{NORD}', 'n');
             insert into jobs (org_id, job_type, unique_key, status, finished_at) values ('{NORD}', 'lead_assign', '{id}', 'failed', {at})",
            definer,
            "select count(*)::text from app.due_leads_of('{NORD}', 9)",
            ["1", "1", "0"],
        ),
        edge(
            "app.social_draft_of",
            ("t.last_incoming_at <= now() - interval '23 hours'", "now() - interval '23 hours'"),
            TALKED,
            service,
            "select app.social_draft_of('{id}', '{id}') ->> 'outcome'",
            ["window_closed", "window_closed", "due"],
        ),
        edge(
            "app.queue_social_drafts",
            (
                "t.last_message_at > now() - case when t.kind = 'message' and a.platform = 'instagram' then interval '23 hours' else interval '7 days' end",
                "now() - interval '23 hours'",
            ),
            TALKED,
            directory,
            "select count(*)::text from app.queue_social_drafts(9)",
            ["0", "0", "1"],
        ),
    // The clock of a statement cannot be held: its rows are a minute before and after.
    edge(
        "app.use_oauth_state",
        ("s.expires_at <= clock_timestamp()", "clock_timestamp()"),
        "insert into oauth_states (state_hash, org_id, user_id, provider, browser_hash, expires_at) values (sha256('s'), '{NORD}', '{OLGA}', 'fortnox', sha256('b'), {at})",
        directory,
        "select outcome from app.use_oauth_state(sha256('s'), 'fortnox', sha256('b'))",
        ["expired", "expired", "ok"],
    ),
    ]
}

/// Functions whose comparisons with the clock take more than a row, with the tests that make it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("approve", "approvals::decide"),
    ("app.claim_approval", "approvals::decide and approvals::gate"),
    ("app.open_approval", "approvals::gate"),
    ("app.take_approval", "approvals::gate"),
    ("app.begin_accounting_write", "fortnox::vouchers"),
    ("app.propose_from_submission", "fortnox::proposals"),
    ("app.social_reply_barred", "social_replies::allowed"),
    ("app.meter_new_customer", "stripe::reconcile"),
    ("app.due_insights", "zones::nights"),
    ("app.close_insight_nights", "zones::nights"),
    ("app.limit_window", "zones::windows"),
    ("app.zone_period", "zones::periods"),
];

/// A case's text with what it stands for; its time is so far from the instant.
fn filled(text: &str, edge: &Edge, away: &str) -> String {
    text.replace("{at}", &format!("({} + interval '{away}')", edge.instant))
        .replace("{id}", &ID.to_string())
        .replace("{NORD}", &NORD.to_string())
        .replace("{DORA}", &DORA.id.to_string())
        .replace("{OLGA}", &OLGA.id.to_string())
        .replace("{DAN.email}", DAN.email)
        .replace("{RENATA}", &RENATA.id.to_string())
}

async fn one(conn: &mut PgConnection, query: &str) -> Result<String, Refusal> {
    let found: Option<Option<String>> =
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_optional(conn).await?;
    Ok(found.flatten().unwrap_or_else(|| "null".to_owned()))
}

/// What the case is answered, in a transaction that is taken back: `now()` is one moment all through it.
async fn answers(conn: &mut PgConnection, edge: &Edge, planted: Option<&str>) -> [String; 3] {
    let step = if edge.instant.contains("clock_timestamp") { "1 minute" } else { "1 microsecond" };
    let mut answered = [const { String::new() }; 3];
    for (away, answered) in [format!("-{step}"), "0".to_owned(), step.to_owned()].iter().zip(&mut answered) {
        conn.execute("begin").await.unwrap();
        if let Some(planted) = planted {
            conn.execute(AssertSqlSafe(planted.to_owned())).await.unwrap();
        }
        // The row alone: what it refers to, and what triggers make of it, has no say here.
        let arranged = format!(
            "set local session_replication_role = replica; {}; set local session_replication_role = origin",
            filled(&edge.arrange, edge, away)
        );
        if let Err(error) = conn.execute(AssertSqlSafe(arranged)).await {
            panic!("{}, {}: {error}", edge.of, edge.compared);
        }
        let actor = (edge.actor)();
        sqlx::query(
            "select set_config('request.jwt.claims', $1, true), set_config('app.service_org', $2, true), set_config('role', $3, true)",
        )
        .bind(actor.claims.to_string())
        .bind(actor.service_org.map(|org| org.to_string()).unwrap_or_default())
        .bind(actor.role)
        .execute(&mut *conn)
        .await
        .unwrap();
        let (asks, seen) = edge.asks.split_once(";;").map_or((edge.asks, None), |(asks, seen)| (asks, Some(seen)));
        *answered = match (one(conn, &filled(asks, edge, away)).await, seen) {
            (Ok(_), Some(seen)) => {
                conn.execute("reset role").await.unwrap();
                one(conn, &filled(seen, edge, away)).await.unwrap().clone()
            }
            (Ok(answered), None) => answered,
            (Err(refusal), _) => refusal.code,
        };
        conn.execute("rollback").await.unwrap();
    }
    answered
}

/// A function's present text.
async fn text_of(conn: &mut PgConnection, function: &str) -> String {
    one(conn, &format!("select pg_get_functiondef('{function}'::regproc)")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_decides_is_decided_at_the_very_instant() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut conn = db.admin().await;
    let mut wrong = Vec::new();
    for edge in edges() {
        let expected = edge.answers.map(|answer| filled(answer, &edge, "0"));
        let answered = answers(&mut conn, &edge, None).await;
        if answered != expected {
            wrong.push(format!("{}, {}: {answered:?} instead of {expected:?}", edge.of, edge.compared));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_with_the_clock_that_is_made_wrong_is_noticed() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let mut conn = db.admin().await;
    let mut unnoticed = Vec::new();
    for edge in edges() {
        let text = text_of(&mut conn, edge.of).await;
        let expected = edge.answers.map(|answer| filled(answer, &edge, "0"));
        let operator = ["<=", ">=", "<", ">"].into_iter().find(|operator| edge.compared.contains(operator)).unwrap();
        let strict = match operator {
            "<=" => "<",
            ">=" => ">",
            "<" => "<=",
            _ => ">=",
        };
        // On the very instant only a clock that can be held distinguishes the two.
        let other = edge.compared.replacen(operator, strict, 1);
        let mut plants = vec!["true".to_owned(), "false".to_owned(), format!("not ({})", edge.compared)];
        if !edge.instant.contains("clock_timestamp") {
            plants.push(other);
        }
        for plant in plants {
            let planted = text.replace(edge.compared, &plant);
            assert_ne!(planted, text, "{} has no such comparison: {}", edge.of, edge.compared);
            if answers(&mut conn, &edge, Some(&planted)).await == expected {
                unnoticed.push(format!("{}: {} instead of {}", edge.of, plant, edge.compared));
            }
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_comparison_with_the_clock_has_its_rows() {
    let db = TestDatabase::new(Server::Postgres18).await;
    let lines = db
        .ask(
            &Actor::role("postgres"),
            "select p.oid::regproc::text as name, trim(l) as line from pg_proc p, regexp_split_to_table(regexp_replace(p.prosrc, '<>|=>', '', 'g'), e'\\n') l
              where p.pronamespace in ('app'::regnamespace, 'public'::regnamespace) and p.prokind = 'f' and l !~ '^ *--'
                and l ~ '(now\\(\\)|clock_timestamp\\(\\)|p_now|p_at\\y)[^,;]*[<>]|[<>]=? [^,;]*(now\\(\\)|clock_timestamp\\(\\)|p_now|p_at\\y)'",
        )
        .await
        .unwrap();
    let edges = edges();
    let mut missing = Vec::new();
    let mut named = BTreeSet::new();
    for line in lines.as_array().unwrap() {
        let (name, line) = (line["name"].as_str().unwrap(), line["line"].as_str().unwrap());
        named.insert(name);
        let known = edges.iter().any(|edge| edge.of == name && line.contains(edge.compared))
            || ELSEWHERE.iter().any(|(function, _)| *function == name);
        if !known {
            missing.push(format!("{name}: {line}"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    let gone: Vec<_> = ELSEWHERE.iter().filter(|(function, _)| !named.contains(function)).collect();
    assert!(gone.is_empty(), "these compare nothing with the clock any more: {gone:?}");
}
