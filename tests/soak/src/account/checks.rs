//! What must hold of the rows, one query each: it answers with what is not accounted for, in words that name it, and with nothing if all
//! is well. `soak_…` are tables of this connection alone, filled from what the outside received, see [`super::Evidence`].

/// One thing that must hold.
#[derive(Debug)]
pub struct Check {
    /// What findings are called.
    pub name: &'static str,
    /// What must hold.
    pub holds: &'static str,
    /// Asks for what does not: rows of one text.
    pub query: &'static str,
}

/// Everything that must hold of the rows.
pub const CHECKS: &[Check] = &[
    // Renders.
    Check {
        name: "renders.kept",
        holds: "each accepted render is a row of its organisation",
        query: "select 'render ' || a.id || ' was accepted and is not there' from soak_accepted a
                 where a.kind = 'render' and not exists (select from public.render_requests r where r.org_id = a.org_id and r.id = a.id)",
    },
    Check {
        name: "renders.once",
        holds: "an idempotency key made one render, and each render was made under one",
        query: "select 'render ' || r.id || ' was made under ' || count(k.key) || ' keys' from public.render_requests r
                  left join public.idempotency_keys k
                    on k.org_id = r.org_id and k.resource_id = r.id and k.operation = 'POST /v1/render-requests'
                 group by r.id having count(k.key) <> 1
                union all
                select 'key ' || a.key || ' made ' || string_agg(distinct a.id::text, ' and ') from soak_accepted a
                 where a.kind = 'render' group by a.actor_id, a.key having count(distinct a.id) <> 1",
    },
    Check {
        name: "renders.ended",
        holds: "each render has ended as its job has",
        query: "select 'render ' || r.id || ' is ' || r.status || ', its job ' || coalesce(j.status, 'gone') from public.render_requests r
                  left join public.jobs j on j.org_id = r.org_id and j.id = r.job_id
                 where (r.status, j.status) not in (('completed', 'succeeded'), ('failed', 'failed'), ('cancelled', 'cancelled'))
                    or j.id is null or r.completed_at is null",
    },
    Check {
        name: "renders.named",
        holds: "a render that failed says why, by a known name",
        query: "select 'render ' || r.id || ' failed as ' || coalesce(r.error ->> 'code', 'nothing') from public.render_requests r
                 where r.status = 'failed'
                   and (coalesce(r.error ->> 'code', '') not in (select code from soak_failures) or length(r.error ->> 'detail') < 10
                        or r.error ->> 'detail' is null)
                union all
                select 'render ' || r.id || ' is ' || r.status || ' and has an error' from public.render_requests r
                 where r.status <> 'failed' and r.error is not null",
    },
    Check {
        name: "renders.results",
        holds: "a completed render has one result and one asset for each variant, and no other has any",
        query: "select 'render ' || r.id || ', ' || r.status || ', of ' || r.variants || ' variants has results ' || coalesce(x.variants, 'none')
                       || ' and ' || x.assets || ' assets'
                  from public.render_requests r
                 cross join lateral (
                       select string_agg(v.variant::text, ',' order by v.variant) as variants, count(*) as results,
                              (select count(*) from public.assets a join public.render_results w on w.org_id = a.org_id and w.id = a.source_id
                                where w.org_id = r.org_id and w.request_id = r.id and a.bucket || '/' || a.path = w.output_file_path) as assets
                         from public.render_results v where v.org_id = r.org_id and v.request_id = r.id) x
                 where (coalesce(x.variants, ''), x.assets) is distinct from
                       (case when r.status = 'completed'
                             then (select string_agg(n::text, ',' order by n) from generate_series(1, r.variants) n) else '' end,
                        case when r.status = 'completed' then r.variants else 0 end)",
    },
    Check {
        name: "renders.pictures",
        holds: "each asset is a stored file with just these bytes",
        query: "select 'asset ' || a.id || ' at ' || a.bucket || '/' || a.path || ' is ' || coalesce('another file', 'gone') from public.assets a
                  left join soak_files f on f.path = a.bucket || '/' || a.path
                 where f.sha256 is distinct from a.sha256 or f.bytes is distinct from a.bytes",
    },
    Check {
        name: "renders.trail",
        holds: "each time a render was asked for is told, and so is how that ended",
        query: "with told as (
                    select r.org_id, r.id, r.status,
                           count(*) filter (where a.action = 'render.requested') as requested,
                           count(*) filter (where a.action = 'render.completed') as completed,
                           count(*) filter (where a.action = 'render.failed') as failed,
                           count(*) filter (where a.action = 'render.cancelled'
                                               or a.action = 'job.cancelled' and a.output ->> 'status' = 'cancelled') as cancelled
                      from public.render_requests r
                     cross join lateral (values (r.id::text), (r.job_id::text)) n (record_id)
                      left join public.audit_log a on a.org_id = r.org_id and a.record_id = n.record_id
                     group by 1, 2, 3)
                select 'render ' || id || ', ' || status || ', was requested ' || requested || ' times, completed ' || completed
                       || ', failed ' || failed || ', cancelled ' || cancelled
                  from told
                 where requested <> completed + failed + cancelled or completed <> case status when 'completed' then 1 else 0 end or requested < 1",
    },
    Check {
        name: "renders.cancelled",
        holds: "a render that was called off stays so, unless somebody asked for it again",
        query: "select 'job ' || a.id || ' was called off and is ' || coalesce(j.status, 'gone') from soak_accepted a
                  left join public.jobs j on j.org_id = a.org_id and j.id = a.id
                 where a.kind = 'cancel' and j.status is distinct from 'cancelled'
                   and not exists (select from soak_accepted p join public.render_requests r on r.org_id = p.org_id and r.id = p.id
                                    where p.kind = 'process sent' and r.job_id = a.id)",
    },
    Check {
        name: "renders.counted",
        holds: "the counters hold the finished renders of each person and agent",
        query: "select 'counter of ' || coalesce(c.actor_id, w.actor_id) || ': ' || coalesce(c.renders, 0) || ', rendered: ' || coalesce(w.renders, 0)
                  from (select org_id, actor_id, sum(renders) as renders from public.render_counters group by 1, 2) c
                  full join (select org_id, coalesce(user_id, agent_id) as actor_id, sum(variants) as renders
                               from public.render_requests where status = 'completed' group by 1, 2) w using (org_id, actor_id)
                 where coalesce(c.renders, 0) <> coalesce(w.renders, 0)",
    },
    // Charges.
    Check {
        name: "charges.renders",
        holds: "a completed render has one charge: what its brief and its pictures cost, estimated if one of them is; no other has one",
        query: "with ended as (
                    select distinct on (a.org_id, a.record_id) a.org_id, a.record_id, a.decision ->> 'brief_model' is not null as briefed
                      from public.audit_log a where a.action = 'render.completed' order by a.org_id, a.record_id, a.occurred_at desc),
                told as (
                    select r.org_id, r.id, r.job_id, r.status, r.variants, e.briefed, x.served_by, coalesce(x.cost, 0) as told,
                           coalesce(b.charges, 0) as charges, coalesce(b.cost, 0) as cost, coalesce(b.quantity, 0) as quantity, b.estimated
                      from public.render_requests r
                      left join ended e on e.org_id = r.org_id and e.record_id = r.id::text
                      left join (select org_id, request_id, min(served_by) as served_by, sum(cost_micro_usd) as cost
                                   from public.render_results group by 1, 2) x on x.org_id = r.org_id and x.request_id = r.id
                      left join (select org_id, source_id, count(*) as charges, sum(cost_micro_usd) as cost, sum(quantity) as quantity,
                                        bool_or(estimated) as estimated
                                   from public.billing_events where kind = 'render' group by 1, 2) b on b.org_id = r.org_id and b.source_id = r.id),
                -- The brief and the pictures of the attempt that ended it are the last that were of use.
                paid as (
                    select t.*, coalesce(p.paid, 0) as paid, coalesce(p.some_estimated, false) as some_estimated
                      from told t
                     cross join lateral (
                           select sum(u.cost_micro_usd) as paid, bool_or(u.estimated) as some_estimated
                             from ((select c.cost_micro_usd, c.estimated from public.provider_calls c
                                     where t.briefed and c.org_id = t.org_id and c.job_id = t.job_id and c.purpose = 'render_brief' and c.outcome = 'ok'
                                     order by c.started_at desc limit 1)
                                   union all
                                   (select c.cost_micro_usd, c.estimated from public.provider_calls c
                                     where t.served_by not in ('cache', 'stale_cache') and c.org_id = t.org_id and c.job_id = t.job_id
                                       and c.purpose = 'render_picture' and c.outcome = 'ok'
                                     order by c.started_at desc limit t.variants)) u) p)
                select 'render ' || id || ', ' || status || ', has ' || charges || ' charges of ' || cost || ' for ' || quantity || '; its results say '
                       || told || ', its calls cost ' || paid || case when some_estimated then ', estimated' else '' end
                  from paid
                 where case when status = 'completed'
                            then (charges, cost, quantity, told, estimated) is distinct from (1::bigint, paid, variants, paid, some_estimated)
                            else charges > 0 end",
    },
    Check {
        name: "charges.insights",
        holds: "an insight that a model wrote has one charge, of what its text cost; no other has one",
        query: "select 'insight ' || i.id || ', served by ' || i.served_by || ', has ' || b.charges || ' charges of ' || b.cost || '; its text cost '
                       || coalesce(p.cost::text, 'nothing')
                  from public.ai_insights i
                  left join lateral (
                       select p.cost_micro_usd as cost from public.provider_calls p
                        where p.org_id = i.org_id and p.job_id = i.job_id and p.outcome = 'ok' order by p.started_at desc limit 1) p on true
                 cross join lateral (
                       select count(*) as charges, coalesce(sum(b.cost_micro_usd), 0) as cost from public.billing_events b
                        where b.org_id = i.org_id and b.source_id = i.id and b.kind = 'insight') b
                 where case when i.served_by in ('model', 'cheaper_model') then (b.charges, b.cost) is distinct from (1::bigint, p.cost)
                            else b.charges > 0 end",
    },
    Check {
        name: "charges.leads",
        holds: "an assignment that a model was heard on has one charge, of what its advice cost; no other has one",
        query: "with advice as (
                    select e.org_id, e.output ->> 'assignment_id' as assignment, c.cost_micro_usd as cost from public.audit_log e
                      join public.provider_calls c on c.org_id = e.org_id and c.id::text = e.metadata ->> 'provider_call_id' and c.outcome = 'ok'
                     where e.resource_type = 'leads'),
                charges as (
                    select org_id, source_id, count(*) as charges, sum(cost_micro_usd) as cost from public.billing_events
                     where kind = 'lead_score' group by 1, 2)
                select 'assignment ' || a.id || ' has ' || coalesce(b.charges, 0) || ' charges of ' || coalesce(b.cost, 0) || '; its advice cost '
                       || coalesce(p.cost::text, 'nothing')
                  from public.lead_assignments a
                  left join advice p on p.org_id = a.org_id and p.assignment = a.id::text
                  left join charges b on b.org_id = a.org_id and b.source_id = a.id
                 where (b.charges, b.cost) is distinct from (case when p.cost is not null then 1::bigint end, p.cost::numeric)",
    },
    Check {
        name: "charges.sources",
        holds: "each charge is of something of the same organisation",
        query: "select 'charge ' || b.id || ' is of ' || b.source_table || ' ' || b.source_id from public.billing_events b
                 where not case b.source_table
                     when 'render_requests' then exists (select from public.render_requests s where s.org_id = b.org_id and s.id = b.source_id)
                     when 'ai_insights' then exists (select from public.ai_insights s where s.org_id = b.org_id and s.id = b.source_id)
                     when 'lead_assignments' then exists (select from public.lead_assignments s where s.org_id = b.org_id and s.id = b.source_id)
                     else false end",
    },
    // Calls of models, and what they are counted against.
    Check {
        name: "calls.ended",
        holds: "each call has an end; one that was cut off is recorded as lost",
        query: "select 'call ' || c.id || ' of job ' || c.job_id || ' to ' || c.provider || ' has no end' from public.provider_calls c
                 where c.finished_at is null or c.outcome is null",
    },
    Check {
        name: "calls.priced",
        holds: "a call costs what it used times the price of the day, or what was reserved where the provider did not say",
        query: "select 'call ' || c.id || ' by ' || c.model || ' used ' || c.usage || ' and cost ' || coalesce(c.cost_micro_usd::text, 'nothing')
                       || ', by the prices ' || coalesce(w.cost::text, 'unknown')
                  from public.provider_calls c
                 cross join lateral (
                       select coalesce((c.usage ->> 'input')::bigint, 0) + coalesce((c.usage ->> 'cache_read')::bigint, 0)
                              + coalesce((c.usage ->> 'cache_write_5m')::bigint, 0) + coalesce((c.usage ->> 'cache_write_1h')::bigint, 0) as prompt) t
                 cross join lateral (
                       select case when count(*) = count(p.price) then coalesce(ceil(sum(u.used * p.price) / 1000000), 0) end as cost
                         from (select e.key as unit, e.value::numeric as used from jsonb_each_text(c.usage) e
                                where e.key in ('input', 'output', 'cache_read', 'cache_write_5m', 'cache_write_1h', 'image_output')
                                  and e.value ~ '^[0-9]+$' and e.value <> '0') u
                         left join lateral (
                              select m.micro_usd_per_million as price from public.model_prices m
                               where m.provider = c.provider and m.model = c.model and m.unit = u.unit and (m.tier = 0 or t.prompt > m.tier)
                                 and m.effective_from <= c.started_at
                               order by m.tier desc, m.effective_from desc limit 1) p on true) w
                 where c.usage is not null
                   -- What was estimated is never less.
                   and case when c.estimated then c.cost_micro_usd is null or c.cost_micro_usd < w.cost
                            else c.cost_micro_usd is distinct from w.cost end
                union all
                select 'call ' || c.id || ' told no usage and cost ' || c.cost_micro_usd from public.provider_calls c
                 where c.usage is null and c.cost_micro_usd <> 0 and not c.estimated",
    },
    Check {
        name: "calls.counted",
        holds: "each request that a provider counted is a row, and each answer it gave is one of its requests",
        query: "select a.provider || ' counted ' || a.requests || ' requests; there are ' || coalesce(c.rows, 0) || ' rows, ' || coalesce(c.answered, 0)
                       || ' of them answered'
                  from soak_asked a
                  left join (select provider, count(*) as rows,
                                    count(*) filter (where outcome not in ('lost', 'provider_unreachable', 'provider_timeout', 'secret_unavailable')) as answered
                               from public.provider_calls group by 1) c using (provider)
                 where not a.requests between coalesce(c.answered, 0) and coalesce(c.rows, 0)",
    },
    Check {
        name: "usage.held",
        holds: "no reservation is held any more",
        query: "select 'reservation ' || r.id || ' of job ' || r.job_id || ', which is ' || j.status || ', is active' from public.usage_reservations r
                  join public.jobs j on j.org_id = r.org_id and j.id = r.job_id where r.state = 'active'",
    },
    Check {
        name: "usage.windows",
        holds: "each window holds what was settled in it, and what its calls cost",
        query: "with claims as (
                    select r.org_id, r.agent, w.scope, w.scope_id, w.period, w.period_start,
                           sum(case r.state when 'settled' then r.requests else 0 end) as requests, sum(s.tokens) as tokens, sum(s.cost) as cost
                      from public.usage_reservations r
                     cross join lateral jsonb_to_recordset(r.windows) w (scope text, scope_id uuid, period text, period_start timestamptz)
                     cross join lateral (
                           select coalesce(sum(c.tokens), 0) as tokens, coalesce(sum(c.cost_micro_usd), 0) as cost from public.provider_calls c
                            where c.org_id = r.org_id and c.reservation_id = r.id) s
                     group by 1, 2, 3, 4, 5, 6)
                select 'window ' || concat_ws('/', org_id, agent, scope, scope_id, period, period_start) || ' holds '
                       || coalesce(u.used_requests, 0) || ' requests, ' || coalesce(u.used_tokens, 0) || ' tokens, ' || coalesce(u.used_cost_micro_usd, 0)
                       || ' micro-USD and reserved ' || coalesce(u.reserved_requests + u.reserved_tokens + u.reserved_cost_micro_usd, 0)
                       || '; settled were ' || coalesce(c.requests, 0) || ', ' || coalesce(c.tokens, 0) || ', ' || coalesce(c.cost, 0)
                  from public.agent_usage u full join claims c using (org_id, agent, scope, scope_id, period, period_start)
                 where (coalesce(u.used_requests, 0), coalesce(u.used_tokens, 0), coalesce(u.used_cost_micro_usd, 0),
                        coalesce(u.reserved_requests, 0), coalesce(u.reserved_tokens, 0), coalesce(u.reserved_cost_micro_usd, 0))
                       is distinct from (coalesce(c.requests, 0), coalesce(c.tokens, 0), coalesce(c.cost, 0), 0::bigint, 0::bigint, 0::bigint)",
    },
    Check {
        name: "usage.negative",
        holds: "no number is negative",
        query: "select 'window ' || concat_ws('/', org_id, agent, scope, scope_id, period, period_start) || ' is negative' from public.agent_usage
                 where least(used_requests, used_tokens, used_cost_micro_usd, reserved_requests, reserved_tokens, reserved_cost_micro_usd) < 0
                union all
                select 'call ' || id || ' is negative' from public.provider_calls where least(tokens, cost_micro_usd) < 0
                union all
                select 'charge ' || id || ' is negative' from public.billing_events where least(quantity, cost_micro_usd) < 0
                union all
                select 'result ' || id || ' is negative' from public.render_results where least(cost_tokens, cost_micro_usd) < 0
                union all
                select 'reservation ' || id || ' is negative' from public.usage_reservations
                 where least(requests, tokens, cost_micro_usd, spent_tokens, spent_cost_micro_usd) < 0",
    },
    // Jobs.
    Check {
        name: "jobs.ended",
        holds: "each job has ended",
        query: "select j.job_type || ' ' || j.id || ' is ' || j.status || ' after ' || j.attempts || ' attempts, waiting '
                       || coalesce(j.wait_reason ->> 'reason', 'for nothing') || ', last error ' || coalesce(j.last_error ->> 'code', 'none')
                  from public.jobs j
                 where j.status not in ('succeeded', 'failed', 'cancelled') or j.finished_at is null or j.lease_token is not null",
    },
    Check {
        name: "jobs.named",
        holds: "a job that failed says why",
        query: "select j.job_type || ' ' || j.id || ' failed as ' || coalesce(j.last_error::text, 'nothing') from public.jobs j
                 where j.status = 'failed' and coalesce(j.last_error ->> 'code', '') not in (select code from soak_failures)",
    },
    // Insights.
    Check {
        name: "insights.kept",
        holds: "each accepted insight is a row of its organisation with a text, and says what served it",
        query: "select 'insight ' || a.id || ' was accepted and ' || case when i.id is null then 'is not there' else 'has no text' end
                  from soak_accepted a left join public.ai_insights i on i.org_id = a.org_id and i.id = a.id
                 where a.kind = 'insight' and (i.id is null or coalesce(length(i.summary), 0) = 0)
                union all
                select 'insight ' || i.id || ' is served by ' || i.served_by || ' because of ' || coalesce(i.instead_because, 'nothing')
                  from public.ai_insights i join public.jobs j on j.org_id = i.org_id and j.id = i.job_id
                 where j.status = 'succeeded' and i.served_by = 'default_template' and coalesce(i.instead_because, 'text_on_its_way') = 'text_on_its_way'",
    },
    Check {
        name: "insights.trail",
        holds: "each insight's making is told, and so is its writing",
        query: "with told as (
                    select a.org_id, a.record_id, count(*) filter (where a.action = 'ai_insights.insert') as made,
                           count(*) filter (where a.action = 'insight.written') as written
                      from public.audit_log a where a.resource_type = 'ai_insights' group by 1, 2)
                select 'insight ' || i.id || ', whose job is ' || coalesce(j.status, 'none') || ', was made ' || coalesce(t.made, 0) || ' times and written '
                       || coalesce(t.written, 0)
                  from public.ai_insights i
                  left join public.jobs j on j.org_id = i.org_id and j.id = i.job_id
                  left join told t on t.org_id = i.org_id and t.record_id = i.id::text
                 where coalesce(t.made, 0) <> 1 or (coalesce(t.written, 0) = 0) <> (j.status is distinct from 'succeeded')",
    },
    // Leads.
    Check {
        name: "leads.kept",
        holds: "each accepted lead is a row of its organisation, and so is its end",
        query: "select 'lead ' || a.id || ', ' || a.kind || ', is ' || coalesce(l.status, 'not there') from soak_accepted a
                  left join public.leads l on l.org_id = a.org_id and l.id = a.id
                 where a.kind in ('lead', 'lead ended') and (l.id is null or a.kind = 'lead ended' and l.status not in ('won', 'lost'))",
    },
    Check {
        name: "leads.assigned",
        holds: "each lead that was asked for, or is the schedule's to find, is somebody's or has ended",
        query: "select 'lead ' || l.id || ' is ' || l.status || ' and nobody''s' from public.leads l
                 where l.assigned_to is null and l.status not in ('won', 'lost')
                   and (exists (select from soak_accepted a where a.kind = 'lead asked for' and a.org_id = l.org_id and a.id = l.id)
                        or exists (select from public.lead_assignment_settings s where s.org_id = l.org_id and s.enabled))",
    },
    Check {
        name: "leads.once",
        holds: "a lead that somebody has was given to them by one assignment, each of which is told once",
        query: "select 'lead ' || l.id || ' of ' || coalesce(l.assigned_to::text, 'nobody') || ' has ' || count(a.id) || ' assignments in force'
                  from public.leads l
                  left join public.lead_assignments a on a.org_id = l.org_id and a.lead_id = l.id and a.ended_at is null and a.user_id = l.assigned_to
                 group by l.id, l.assigned_to having count(a.id) <> case when l.assigned_to is null then 0 else 1 end
                union all
                select 'assignment ' || a.id || ' is told ' || count(e.id) || ' times' from public.lead_assignments a
                  left join public.audit_log e on e.org_id = a.org_id and e.resource_type = 'leads'
                       and e.action in ('lead.assigned', 'lead.reassigned') and e.output ->> 'assignment_id' = a.id::text
                 group by a.id having count(e.id) <> 1",
    },
    // Documents.
    Check {
        name: "documents.delivered",
        holds: "everything that was to reach MongoDB or a mailbox did",
        query: "select o.kind || ' ' || o.id || ' was not delivered after ' || o.attempts || ' attempts: ' || coalesce(o.last_error, 'never tried')
                  from public.outbox o where o.delivered_at is null and o.dropped_at is null",
    },
    Check {
        name: "documents.equal",
        holds: "each document is in MongoDB as it was written, under its organisation's path",
        query: "select 'document ' || o.id || ' ' || case when d.id is null then 'is not in MongoDB' else 'is another in MongoDB' end
                  from public.outbox o left join soak_documents d on d.collection = o.destination and d.id = o.id::text
                 where o.kind = 'document'
                   and (d.id is null or d.body - '{_id,org_id,path}'::text[] is distinct from o.payload - '{_id,org_id,path}'::text[]
                        or d.body ->> 'org_id' is distinct from o.org_id::text
                        or d.body ->> 'path' is distinct from 'orgs/' || o.org_id || '/' || o.destination || '/' || o.id)",
    },
    Check {
        name: "documents.known",
        holds: "MongoDB holds nothing that was not written down first",
        query: "select 'document ' || d.collection || ' ' || d.id || ' is in MongoDB and in no outbox' from soak_documents d
                 where not exists (select from public.outbox o where o.destination = d.collection and o.id::text = d.id)",
    },
    Check {
        name: "documents.renders",
        holds: "a completed render has one document, and no other has one",
        query: "select 'render ' || r.id || ', ' || r.status || ', has ' || count(o.id) || ' documents' from public.render_requests r
                  left join public.outbox o on o.org_id = r.org_id and o.kind = 'document' and o.payload ->> 'request_id' = r.id::text
                 group by r.id, r.status having count(o.id) <> case r.status when 'completed' then 1 else 0 end",
    },
    // Stripe.
    Check {
        name: "stripe.kept",
        holds: "each event that was answered with 2xx is stored once, and each that was lost was found",
        query: "select 'event ' || e.id || ' was ' || case when e.delivered then 'taken' else 'lost' end || ' and is stored ' || count(w.id) || ' times'
                  from soak_events e left join public.webhook_events w on w.provider = 'stripe' and w.event_id = e.id
                 group by e.id, e.delivered having count(w.id) <> 1",
    },
    Check {
        name: "stripe.bodies",
        holds: "an event is stored as Stripe said it",
        query: "select 'event ' || e.id || ' is stored as another' from soak_events e
                  join public.webhook_events w on w.provider = 'stripe' and w.event_id = e.id
                 where convert_from(w.raw, 'UTF8')::jsonb - 'pending_webhooks' is distinct from e.body - 'pending_webhooks'",
    },
    Check {
        name: "stripe.applied",
        holds: "no event was refused, left unread or left without its effect",
        query: "select 'event ' || w.event_id || ', ' || coalesce(w.event_type, 'of no type') || ', is ' || w.status || ': ' || coalesce(w.error, 'no error')
                  from public.webhook_events w where w.provider = 'stripe' and w.status in ('failed', 'unparsed', 'received')",
    },
    Check {
        name: "stripe.owners",
        holds: "an event of a customer is its organisation's, and of nobody else",
        query: "select 'event ' || w.event_id || ' of ' || c.customer || ' is ' || coalesce('of ' || w.org_id, 'nobody''s') from public.webhook_events w
                  join soak_events e on e.id = w.event_id
                  join soak_customers c on c.customer = coalesce(e.body #>> '{data,object,customer}', e.body #>> '{data,object,id}')
                 where w.provider = 'stripe' and w.org_id is distinct from c.org_id and w.status <> 'ignored'
                union all
                select 'event ' || w.event_id || ' is of ' || w.org_id || ' and of no customer of theirs' from public.webhook_events w
                  join soak_events e on e.id = w.event_id
                 where w.provider = 'stripe' and w.org_id is not null and e.body #>> '{data,object,customer}' is not null
                   and not exists (select from soak_customers c where c.customer = e.body #>> '{data,object,customer}')",
    },
    Check {
        name: "stripe.subscriptions",
        holds: "subscriptions are as Stripe has them",
        query: "select 'subscription ' || coalesce(w.id, s.stripe_subscription_id) || ' is ' || coalesce(to_jsonb(s) ->> 'status', 'not there')
                       || ', at Stripe ' || coalesce(to_jsonb(w)::text, 'not there')
                  from soak_subscriptions w full join public.subscriptions s on s.stripe_subscription_id = w.id
                 where (s.org_id, s.status, s.stripe_price_ids, s.quantity, extract(epoch from s.current_period_start), extract(epoch from s.current_period_end),
                        s.cancel_at_period_end, extract(epoch from s.ended_at), s.latest_invoice_id)
                       is distinct from (w.org_id, w.status, w.prices, w.quantity, w.period_start, w.period_end, w.cancel_at_period_end, w.ended_at, w.latest_invoice)",
    },
    Check {
        name: "stripe.invoices",
        holds: "invoices are as Stripe has them",
        query: "select 'invoice ' || coalesce(w.id, i.stripe_invoice_id) || ' is ' || coalesce(i.status, 'not there') || ' with '
                       || coalesce(i.amount_remaining, 0) || ' open, at Stripe ' || coalesce(w.status, 'not there') || ' with ' || coalesce(w.remaining, 0)
                  from soak_invoices w full join public.invoices i on i.stripe_invoice_id = w.id
                 where (i.org_id, i.status, i.amount, i.amount_due, i.amount_paid, i.amount_remaining, i.attempt_count, i.stripe_subscription_id)
                       is distinct from (w.org_id, w.status, w.amount, w.due, w.paid, w.remaining, w.attempts, w.subscription)",
    },
    Check {
        name: "stripe.plans",
        holds: "each organisation has the plan it pays for",
        query: "select 'organisation ' || o.slug || ' has ' || o.plan || ' and pays for ' || w.plan from public.organizations o
                 cross join lateral (
                       select coalesce((select p.plan from soak_subscriptions s cross join unnest(s.prices) x (price)
                                          join public.plan_prices p on p.stripe_price_id = x.price
                                         where s.org_id = o.id and s.status in ('trialing', 'active', 'past_due')
                                         order by p.rank desc, p.plan limit 1), 'free') as plan) w
                 where o.plan is distinct from w.plan",
    },
    Check {
        name: "stripe.forged",
        holds: "a forged event leaves no row",
        query: "select 'event ' || w.event_id || ' was forged and is stored' from public.webhook_events w where w.event_id like 'evt_forged%'",
    },
    Check {
        name: "stripe.metered",
        holds: "each cost is told to the meter once at most, as it stands in its report",
        query: "select 'report ' || m.id || ' of ' || m.cost_micro_usd || ' is ' || m.status || ' and was told ' || count(t.identifier) || ' times'
                  from public.meter_reports m left join soak_metered t on t.identifier = m.id::text and t.value = m.cost_micro_usd
                 group by m.id having count(t.identifier) <> case m.status when 'reported' then 1 else count(t.identifier) end or count(t.identifier) > 1
                union all
                select 'usage ' || t.identifier || ' was told and is in no report' from soak_metered t
                 where not exists (select from public.meter_reports m where m.id::text = t.identifier)",
    },
    // The audit log.
    Check {
        name: "audit.digests",
        holds: "every entry's digest can be computed again",
        query: "select 'entry ' || a.id || ', ' || a.action || ', has another digest' from public.audit_log a
                 where a.digest is distinct from app.audit_digest(a)",
    },
    Check {
        name: "audit.trail",
        holds: "everything that was accepted is told, as often as it was done",
        query: "select w.kind || ' ' || w.id || ' was accepted ' || w.times || ' times and is told ' || coalesce(t.times, 0)
                  from (select a.org_id, a.id, a.kind, e.resource_type, e.action, count(*) as times
                          from soak_accepted a
                          join (values ('render', 'render_requests', 'render.requested'), ('insight', 'ai_insights', 'ai_insights.insert'),
                                       ('lead', 'leads', 'leads.insert'), ('lead ended', 'leads', 'leads.update'),
                                       ('limit made', 'agent_limits', 'agent_limits.insert'), ('limit changed', 'agent_limits', 'agent_limits.update'),
                                       ('limit deleted', 'agent_limits', 'agent_limits.delete'), ('cancel', 'jobs', 'job.cancelled'),
                                       ('checkout', 'billing_checkouts', 'billing.checkout_opened'),
                                       ('portal', 'organizations', 'billing.portal_opened')) e (kind, resource_type, action) using (kind)
                         group by 1, 2, 3, 4, 5) w
                  left join (select org_id, resource_type, action, record_id, count(*) as times from public.audit_log group by 1, 2, 3, 4) t
                    on t.org_id = w.org_id and t.resource_type = w.resource_type and t.action = w.action and t.record_id = w.id::text
                 -- An insight is made once and a checkout opened once, however often they are asked for; what is called off twice is called off once.
                 where coalesce(t.times, 0) < case when w.kind in ('insight', 'cancel', 'checkout') then 1 else w.times end",
    },
    Check {
        name: "audit.once",
        holds: "a checkout is told as opened once",
        query: "select 'checkout ' || a.record_id || ' is told as opened ' || count(*) || ' times' from public.audit_log a
                 where a.action = 'billing.checkout_opened' group by a.org_id, a.record_id having count(*) <> 1",
    },
    Check {
        name: "audit.personal",
        holds: "no personal value can be read in the log",
        query: "select 'entry ' || a.id || ', ' || a.action || ', holds ' || p.value from public.audit_log a
                  join soak_personal p on to_jsonb(a)::text ilike '%' || p.value || '%'",
    },
    // Organisations.
    Check {
        name: "organisations.apart",
        holds: "nothing that a row names without a foreign key is of another organisation",
        query: "select x.what from (
                    select 'job ' || j.id || ' of ' || j.org_id || ' names a render of ' || r.org_id as what, j.org_id as one, r.org_id as other
                      from public.jobs j join public.render_requests r on r.id::text = j.payload ->> 'request_id'
                    union all
                    select 'job ' || j.id || ' of ' || j.org_id || ' names a lead of ' || l.org_id, j.org_id, l.org_id
                      from public.jobs j join public.leads l on l.id::text = j.payload ->> 'lead_id'
                    union all
                    select 'job ' || j.id || ' of ' || j.org_id || ' names an insight of ' || i.org_id, j.org_id, i.org_id
                      from public.jobs j join public.ai_insights i on i.id::text = j.payload ->> 'insight_id'
                    union all
                    select 'document ' || o.id || ' of ' || o.org_id || ' names a render of ' || r.org_id, o.org_id, r.org_id
                      from public.outbox o join public.render_requests r on r.id::text = o.payload ->> 'request_id'
                    union all
                    select 'entry ' || a.id || ' of ' || a.org_id || ' names a render of ' || r.org_id, a.org_id, r.org_id
                      from public.audit_log a join public.render_requests r on r.id::text = a.record_id
                    union all
                    select 'asset ' || a.id || ' of ' || a.org_id || ' lies at ' || a.path, a.org_id, app.as_uuid(split_part(a.path, '/', 1)) from public.assets a
                    union all
                    select 'render ' || r.id || ' of ' || r.org_id || ' starts from ' || r.input_file_path, r.org_id,
                           app.as_uuid(split_part(r.input_file_path, '/', 2)) from public.render_requests r
                    union all
                    select 'job ' || j.id || ' of ' || j.org_id || ' was asked for by somebody of ' || m.org_id, j.org_id, m.org_id
                      from public.jobs j join soak_people m on m.id = j.created_by) x
                 where x.one is distinct from x.other",
    },
];

/// Asks, for each foreign key between rows of organisations, for rows that refer to another organisation's: a query that writes the query.
pub const REFERENCES: &str = "
    select coalesce(string_agg(format(
               'select %1$L || to_jsonb(a)::text from %2$s a
                 where exists (select from %3$s b where %4$s)
                   and not exists (select from %3$s b where %4$s and (b.org_id is null or b.org_id = a.org_id))',
               x.conname || ' leads to another organisation from ', x.here, x.there, x.same), ' union all '), 'select null::text where false')
      from (select c.conname, c.conrelid::regclass as here, c.confrelid::regclass as there,
                   (select string_agg(format('a.%I = b.%I', f.attname, t.attname), ' and ')
                      from unnest(c.conkey, c.confkey) k (f, t)
                      join pg_attribute f on f.attrelid = c.conrelid and f.attnum = k.f
                      join pg_attribute t on t.attrelid = c.confrelid and t.attnum = k.t
                     where t.attname <> 'org_id') as same
              from pg_constraint c
             where c.contype = 'f' and c.connamespace = 'public'::regnamespace and c.conparentid = 0
               and exists (select from pg_attribute f where f.attrelid = c.conrelid and f.attname = 'org_id' and not f.attisdropped)
               and exists (select from pg_attribute t where t.attrelid = c.confrelid and t.attname = 'org_id' and not t.attisdropped)) x
     where x.same is not null";
