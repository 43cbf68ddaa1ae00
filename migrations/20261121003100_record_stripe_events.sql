-- Record a delivery of Stripe's and its effect in one call, and answer whose it is.
--
-- Locks:   organizations: share row exclusive, for the moment that making a trigger takes; writers wait, readers do not.
-- Rollout: expand.
-- Undo:    drop the functions and the trigger.

set local role spine_definer;

-- Whose object is this? Its own row's owner; else the organisation that opened the checkout session, or whose customer it names, or that
-- has objects it shares a payment with. Null if nobody is known, and null if two would be: no event is anybody's by guess.
create function app.stripe_owner(p_object text, p_refs text[]) returns uuid
    language plpgsql stable security definer set search_path = '' as $$
declare
    v_org  uuid;
    v_orgs uuid[];
    -- A customer has many objects, which are found by the customer alone; a checkout is found by its row.
    v_shared text[] := array(select r from unnest(array_append(p_refs, p_object)) r where r not like 'cus\_%' and r not like 'checkout:%');
    v_checkouts uuid[] := array(select substr(r, 10)::uuid from unnest(p_refs) r where r ~ '^checkout:[0-9a-f-]{36}$');
begin
    select s.org_id into v_org from public.stripe_objects s where s.stripe_id = p_object;
    if found then
        return v_org;
    end if;
    select o.id into v_org from public.organizations o where o.stripe_customer_id = p_object;
    if found then
        return v_org;
    end if;
    select array_agg(distinct x.org_id) into v_orgs
      from (select o.id as org_id from public.organizations o where o.stripe_customer_id = any (p_refs)
            union all
            select s.org_id from public.stripe_objects s where s.stripe_id = any (p_refs)
            union all
            select s.org_id from public.stripe_objects s where s.refs && v_shared
            union all
            select c.org_id from public.billing_checkouts c where c.session_id = p_object
            union all
            -- One whose session was not stored: a payment link can be given any id, and an old one must not count.
            select c.org_id from public.billing_checkouts c
             where c.id = any (v_checkouts) and c.session_id is null and c.status = 'creating' and c.expires_at > now()) x;
    return case when cardinality(v_orgs) = 1 then v_orgs[1] end;
end
$$;
comment on function app.stripe_owner(text, text[]) is 'The organisation an object of Stripe''s belongs to, by ids alone. Null if none is known, or more than one.';

-- Queues a job of the system's own in the organisation of this transaction. A wish that comes while another is worked on has a key of
-- its own, so that it is not taken for that.
create function app.admit_service_job(p_type text, p_key text, p_payload jsonb, p_run_after timestamptz) returns void
    language sql volatile security definer set search_path = '' as $$
    insert into public.jobs (org_id, job_type, unique_key, payload, run_after)
    select app.service_org(), p_type, p_key, p_payload, p_run_after
     where app.service_org() is not null and p_type in ('stripe_settle', 'stripe_claim')
    on conflict do nothing
$$;
comment on function app.admit_service_job(text, text, jsonb, timestamptz) is 'Queues work of the system in its organisation, once for a key.';

-- Keeps a delivery that nobody owns, or that says nothing. True unless it was known.
create function app.keep_stripe_event(p jsonb, p_raw bytea) returns boolean
    language sql volatile security definer set search_path = '' as $$
    with kept as (
        insert into public.webhook_events (provider, event_id, org_id, raw, event_type, api_version, status, error, object_id, refs, occurred_at)
        values ('stripe', p ->> 'event_id', null, p_raw, p ->> 'event_type', p ->> 'api_version', coalesce(p ->> 'status', 'unowned'),
                p ->> 'error', p ->> 'object_id',
                array(select jsonb_array_elements_text(p -> 'refs') union select p ->> 'object_id' where p ->> 'object_id' is not null order by 1),
                to_timestamp((p ->> 'occurred_at')::bigint))
        on conflict (provider, event_id) do nothing
        returning 1)
    select exists (select from kept)
$$;

-- Makes an event that waited the organisation's of this transaction, if that is its owner.
create function app.adopt_stripe_event(p_event_id text) returns boolean
    language sql volatile security definer set search_path = '' as $$
    with adopted as (
        update public.webhook_events e set org_id = app.service_org(), status = 'received'
         where e.provider = 'stripe' and e.event_id = p_event_id and e.org_id is null and e.status in ('unowned', 'unparsed', 'failed')
           and app.stripe_owner(e.object_id, e.refs) = app.service_org()
        returning 1)
    select exists (select from adopted)
$$;

-- Whether an event waits for one of these ids.
create function app.stripe_event_waits(p_refs text[]) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.webhook_events e where e.org_id is null and e.status = 'unowned' and e.refs && p_refs)
$$;

-- Makes events that waited for this organisation its own. Their ids, in the order they came.
create function app.claim_stripe_events(p_most integer) returns setof uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org uuid := app.service_org();
begin
    if v_org is null then
        perform app.refuse('PT403', 'organization_missing', 'Events are claimed in an organisation.');
    end if;
    return query
    with own as materialized (
        select o.stripe_customer_id as ref from public.organizations o where o.id = v_org and o.stripe_customer_id is not null
        union select s.stripe_id from public.stripe_objects s where s.org_id = v_org
        union select r from public.stripe_objects s cross join unnest(s.refs) r
               where s.org_id = v_org and r not like 'cus\_%' and r not like 'checkout:%'),
    found as materialized (
        -- By the index, which is of unowned events alone: one look for each id.
        select distinct e.id from own cross join lateral (
               select w.id from public.webhook_events w where w.org_id is null and w.refs && array[own.ref] and w.status = 'unowned') e),
    waiting as (
        select e.id from public.webhook_events e join found f on f.id = e.id
         where e.org_id is null and app.stripe_owner(e.object_id, e.refs) = v_org
         order by e.id limit least(p_most, 1000)
           for update of e skip locked),
    claimed as (
        update public.webhook_events e set org_id = v_org, status = 'received' from waiting w where e.id = w.id returning e.id)
    select c.id from claimed c order by c.id;
end
$$;

-- Deliveries of which too little is known: thin ones, and objects that name no customer. For each: its row, its id, its type, its object.
create function app.unclear_stripe_events(p_most integer) returns table (id uuid, event_id text, event_type text, object_id text)
    language sql stable security definer set search_path = '' as $$
    select e.id, e.event_id, e.event_type, e.object_id from public.webhook_events e
     where e.provider = 'stripe' and e.org_id is null and e.looked_up_at is null and e.received_at > now() - interval '30 days'
       and (e.status = 'received' or (e.status = 'unowned' and not exists (select from unnest(e.refs) r where r like 'cus\_%')))
     -- In another order each time, so that one of which nothing can be learned hides no other.
     order by random() limit least(p_most, 1000)
$$;

-- Organisations with events that are theirs and have no effect yet, as when who claimed them was cut off.
create function app.left_stripe_events(p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select distinct e.org_id from public.webhook_events e
     where e.provider = 'stripe' and e.org_id is not null and e.status = 'received' and e.received_at < now() - interval '1 minute'
     limit least(p_most, 1000)
$$;

-- Writes down what Stripe answered about such a delivery. The organisation it is known to belong to now, if any.
create function app.tell_stripe_event(p_id uuid, p_refs text[], p_status text) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_event public.webhook_events;
begin
    update public.webhook_events e
       set refs = array(select distinct r from unnest(e.refs || p_refs) r order by r), looked_up_at = now(),
           status = case when p_status in ('unowned', 'ignored', 'applied') then p_status else e.status end
     where e.id = p_id and e.org_id is null
    returning * into v_event;
    return app.stripe_owner(v_event.object_id, v_event.refs);
end
$$;

-- Which of these events are not in the ledger?
create function app.unknown_stripe_events(p_ids text[]) returns setof text
    language sql stable security definer set search_path = '' as $$
    select i from unnest(p_ids) i where not exists (select from public.webhook_events e where e.provider = 'stripe' and e.event_id = i)
$$;

-- Addresses of an invoice's page and PDF differ each time they are asked for, and say nothing about it.
create function app.stripe_digest(p_facts jsonb) returns bytea language sql immutable set search_path = '' as $$
    select sha256(convert_to((p_facts - '{hosted_invoice_url,invoice_pdf}'::text[])::text, 'UTF8'))
$$;
grant execute on function app.stripe_digest(jsonb) to spine_service;

-- Which of these objects, as Stripe shows them now, are somebody's and not what is stored? Given as {"id","refs","facts"}.
create function app.stripe_adrift(p_objects jsonb) returns table (org_id uuid, object_id text)
    language sql stable security definer set search_path = '' as $$
    select w.owner, w.object_id
      from (select o.value ->> 'id' as object_id, app.stripe_digest(o.value -> 'facts') as digest,
                   app.stripe_owner(o.value ->> 'id', array(select jsonb_array_elements_text(o.value -> 'refs'))) as owner
              from jsonb_array_elements(p_objects) o) w
     where w.owner is not null
       and not exists (select from public.stripe_objects s where s.stripe_id = w.object_id and s.digest = w.digest)
$$;

-- Invoices and subscriptions that may still change and were not heard of for a day.
create function app.stale_stripe_objects(p_most integer) returns table (org_id uuid, object_id text)
    language sql stable security definer set search_path = '' as $$
    select s.org_id, s.stripe_id from public.stripe_objects s
     where not s.terminal and s.kind in ('invoice', 'subscription') and s.compared_at < now() - interval '1 day'
     order by s.compared_at limit least(p_most, 1000)
$$;

-- The plan that an organisation's subscriptions entitle it to; null if it never had one, since then the plan is not Stripe's to say.
create function app.paid_plan(p_org uuid) returns text
    language sql stable security definer set search_path = '' as $$
    select case when exists (select from public.subscriptions s
                              where s.org_id = p_org and s.status not in ('incomplete', 'incomplete_expired')) then coalesce((
        select p.plan from public.subscriptions s
         cross join unnest(s.stripe_price_ids) i (price)
          join public.plan_prices p on p.stripe_price_id = i.price
         where s.org_id = p_org and s.status in ('trialing', 'active', 'past_due')
         order by p.rank desc, p.plan limit 1), 'free') end
$$;
comment on function app.paid_plan(uuid) is
    'The plan that subscriptions entitle to: trialing, active and past due ones count, the last while Stripe still tries to collect.';

-- Organisations whose plan is not what they pay for, as after a change of plan_prices.
create function app.plans_adrift(p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select o.id from public.organizations o
     where exists (select from public.subscriptions s where s.org_id = o.id)
       and o.plan is distinct from coalesce(app.paid_plan(o.id), o.plan)
     limit least(p_most, 1000)
$$;

-- Jobs of these kinds that are due: ids only. One organisation's backlog must not hide another's.
create function app.due_jobs_of(p_types text[], p_most integer) returns table (org_id uuid, job_id uuid, job_type text)
    language sql stable security definer set search_path = '' as $$
    select d.org_id, d.id, d.job_type
      from (select j.org_id, j.id, j.job_type,
                   row_number() over (partition by j.org_id order by j.priority desc, j.run_after) as place
              from public.jobs j
             where j.job_type = any (p_types)
               and ((j.status = 'queued' and j.run_after <= now()) or (j.status = 'running' and j.lease_until <= now()))) d
     order by d.place, d.id limit least(p_most, 1000)
$$;

-- Begins a run of the reconciliation, unless one began within `every` that had caught up. The window goes on from where the last finished run ended, a little
-- earlier since events may appear late, and spans a day at most.
create function app.begin_reconciliation(p_every interval, p_now timestamptz, out id uuid, out since timestamptz, out until timestamptz)
    language plpgsql volatile security definer set search_path = '' as $$
begin
    if not pg_try_advisory_xact_lock(hashtextextended('spine.reconciliation', 0))
       or exists (select from public.billing_reconciliations r where r.started_at > now() - p_every and r.error is null
                     and (r.finished_at is null or r.until > p_now - interval '1 hour')) then
        return;
    end if;
    -- Stripe keeps events for thirty days.
    select greatest(coalesce(max(r.until) - interval '5 minutes', p_now - interval '30 days'), p_now - interval '30 days') into since
      from public.billing_reconciliations r where r.finished_at is not null;
    until := least(since + interval '1 day', p_now);
    insert into public.billing_reconciliations (since, until) values (since, until) returning billing_reconciliations.id into id;
end
$$;

create function app.end_reconciliation(p_id uuid, p_listed integer, p_missed integer, p_compared integer, p_drifted integer, p_error text) returns void
    language sql volatile security definer set search_path = '' as $$
    update public.billing_reconciliations r
       set finished_at = case when p_error is null then now() end, listed = p_listed, missed = p_missed, compared = p_compared,
           drifted = p_drifted, error = left(p_error, 1000)
     where r.id = p_id and r.finished_at is null
$$;

-- What is summed: costs since the organisation's customer is known, and of days that Stripe's meter still takes. What was spent before is
-- not billed by use.
create function app.metered_since(p_org uuid) returns timestamptz
    language sql stable security definer set search_path = '' as $$
    select greatest(s.created_at, now() - interval '34 days')
      from public.organizations o join public.stripe_objects s on s.stripe_id = o.stripe_customer_id and s.org_id = o.id
     where o.id = p_org and s.facts ->> 'status' is distinct from 'deleted'
$$;

create function app.unreported_costs(p_before timestamptz, p_most integer) returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select o.id from public.organizations o
     where o.stripe_customer_id is not null
       and exists (select from public.billing_events b
                    where b.org_id = o.id and b.meter_report_id is null and b.created_at < p_before and b.cost_micro_usd > 0
                      and b.created_at >= app.metered_since(o.id))
     limit least(p_most, 1000)
$$;

create function app.open_meter_reports(p_most integer) returns table (org_id uuid, report_id uuid)
    language sql stable security definer set search_path = '' as $$
    select m.org_id, m.id from public.meter_reports m where m.status = 'open' order by m.created_at limit least(p_most, 1000)
$$;

-- After rebuilding: removes what no event tells of. How many rows.
create function app.remove_untold_billing() returns bigint
    language sql volatile security definer set search_path = '' as $$
    with objects as (
        delete from public.stripe_objects s where s.org_id = app.service_org() and s.observed_at = '-infinity' returning s.stripe_id),
    invoices as (
        delete from public.invoices i where i.org_id = app.service_org()
           and not exists (select from public.stripe_objects s where s.stripe_id = i.stripe_invoice_id and s.observed_at > '-infinity') returning 1),
    subscriptions as (
        delete from public.subscriptions x where x.org_id = app.service_org()
           and not exists (select from public.stripe_objects s where s.stripe_id = x.stripe_subscription_id and s.observed_at > '-infinity') returning 1)
    select (select count(*) from objects) * 0 + (select count(*) from invoices) + (select count(*) from subscriptions)
$$;

-- A customer that an operator links by hand has events that wait for it.
create function app.claim_for_customer() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if app.stripe_event_waits(array[new.stripe_customer_id]) then
        insert into public.jobs (org_id, job_type, unique_key) values (new.id, 'stripe_claim', 'linked:' || app.uuidv7());
    end if;
    return null;
end
$$;
revoke execute on function app.claim_for_customer() from public;
grant execute on function app.claim_for_customer() to spine_owner;

grant execute on function app.stripe_owner(text, text[]), app.admit_service_job(text, text, jsonb, timestamptz),
    app.keep_stripe_event(jsonb, bytea), app.adopt_stripe_event(text), app.stripe_event_waits(text[]), app.claim_stripe_events(integer),
    app.left_stripe_events(integer), app.metered_since(uuid), app.unclear_stripe_events(integer), app.tell_stripe_event(uuid, text[], text), app.unknown_stripe_events(text[]),
    app.stripe_adrift(jsonb), app.stale_stripe_objects(integer), app.paid_plan(uuid), app.plans_adrift(integer),
    app.due_jobs_of(text[], integer), app.begin_reconciliation(interval, timestamptz),
    app.end_reconciliation(uuid, integer, integer, integer, integer, text), app.unreported_costs(timestamptz, integer),
    app.open_meter_reports(integer), app.remove_untold_billing() to spine_service;

reset role;
set local role spine_owner;

create trigger organizations_claim after update of stripe_customer_id on public.organizations
    for each row when (new.stripe_customer_id is not null and new.stripe_customer_id is distinct from old.stripe_customer_id)
    execute function app.claim_for_customer();

-- Finds the owner and works in their organisation from here on: called as a transaction begins. Whoever calls it is spine_service, which
-- could name any organisation anyway; what follows is confined by the policies.
create function app.enter_stripe(p_object text, p_refs jsonb) returns text
    language sql volatile set search_path = '' as $$
    select set_config('app.service_org', coalesce(app.stripe_owner(p_object, array(select jsonb_array_elements_text(p_refs)))::text, ''), true)
$$;

create function app.settle_plan(p_org uuid) returns text
    language plpgsql volatile set search_path = '' as $$
declare
    v_plan text := app.paid_plan(p_org);
begin
    update public.organizations o set plan = v_plan where o.id = p_org and v_plan is not null and o.plan is distinct from v_plan;
    return v_plan;
end
$$;
comment on function app.settle_plan(uuid) is 'Gives the organisation the plan it pays for. The plan.';

-- What the facts of an object mean for the tables people read. Each is a function of the object's facts alone.
create function app.project_stripe(p_org uuid, p_object text, p_kind text, p_facts jsonb) returns void
    language plpgsql volatile set search_path = '' as $$
begin
    if p_kind = 'invoice' then
        insert into public.invoices as i (org_id, stripe_invoice_id, amount, currency, status, period_start, period_end, paid_at, created_at,
               stripe_subscription_id, number, amount_due, amount_paid, amount_remaining, due_at, finalized_at, voided_at, attempted,
               attempt_count, next_payment_attempt, billing_reason, hosted_invoice_url, invoice_pdf)
        select p_org, p_object, f.amount, f.currency, f.status, to_timestamp(f.period_start), to_timestamp(f.period_end), to_timestamp(f.paid_at),
               coalesce(to_timestamp(f.created), now()), f.subscription, f.number, f.amount_due, f.amount_paid, f.amount_remaining, to_timestamp(f.due_at),
               to_timestamp(f.finalized_at), to_timestamp(f.voided_at), f.attempted, f.attempt_count, to_timestamp(f.next_payment_attempt),
               f.billing_reason, f.hosted_invoice_url, f.invoice_pdf
          from jsonb_to_record(p_facts) as f (amount bigint, currency text, status text, period_start bigint, period_end bigint, paid_at bigint,
               created bigint, subscription text, number text, amount_due bigint, amount_paid bigint, amount_remaining bigint, due_at bigint,
               finalized_at bigint, voided_at bigint, attempted boolean, attempt_count integer, next_payment_attempt bigint,
               billing_reason text, hosted_invoice_url text, invoice_pdf text)
        on conflict (stripe_invoice_id) do update set
               amount = excluded.amount, currency = excluded.currency, status = excluded.status, period_start = excluded.period_start,
               period_end = excluded.period_end, paid_at = excluded.paid_at, stripe_subscription_id = excluded.stripe_subscription_id,
               number = excluded.number, amount_due = excluded.amount_due, amount_paid = excluded.amount_paid,
               amount_remaining = excluded.amount_remaining, due_at = excluded.due_at, finalized_at = excluded.finalized_at,
               voided_at = excluded.voided_at, attempted = excluded.attempted, attempt_count = excluded.attempt_count,
               next_payment_attempt = excluded.next_payment_attempt, billing_reason = excluded.billing_reason,
               hosted_invoice_url = excluded.hosted_invoice_url, invoice_pdf = excluded.invoice_pdf;
    elsif p_kind = 'subscription' then
        insert into public.subscriptions as s (org_id, stripe_subscription_id, stripe_price_id, stripe_price_ids, status, quantity,
               current_period_start, current_period_end, cancel_at, cancel_at_period_end, canceled_at, ended_at, trial_end, collection_paused,
               latest_invoice_id, created_at)
        select p_org, p_object, f.prices[1], f.prices, f.status, f.quantity, to_timestamp(f.current_period_start),
               to_timestamp(f.current_period_end), to_timestamp(f.cancel_at), f.cancel_at_period_end, to_timestamp(f.canceled_at),
               to_timestamp(f.ended_at), to_timestamp(f.trial_end), f.collection_paused, f.latest_invoice, to_timestamp(f.created)
          from jsonb_to_record(p_facts) as f (prices text[], status text, quantity bigint, current_period_start bigint,
               current_period_end bigint, cancel_at bigint, cancel_at_period_end boolean, canceled_at bigint, ended_at bigint,
               trial_end bigint, collection_paused boolean, latest_invoice text, created bigint)
        on conflict (stripe_subscription_id) do update set
               stripe_price_id = excluded.stripe_price_id, stripe_price_ids = excluded.stripe_price_ids, status = excluded.status,
               quantity = excluded.quantity, current_period_start = excluded.current_period_start,
               current_period_end = excluded.current_period_end, cancel_at = excluded.cancel_at,
               cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at, ended_at = excluded.ended_at,
               trial_end = excluded.trial_end, collection_paused = excluded.collection_paused, latest_invoice_id = excluded.latest_invoice_id;
    end if;
end
$$;

-- Which of its customers the organisation is billed as: of those that completed a checkout and were not deleted, the first to. One that an
-- operator named, which no checkout did, stays.
create function app.settle_customer(p_org uuid) returns void
    language sql volatile set search_path = '' as $$
    with paid as (
        select s.facts ->> 'customer' as customer, s.observed_at, s.stripe_id from public.stripe_objects s
         where s.org_id = p_org and s.kind = 'checkout_session' and s.facts ->> 'status' = 'complete' and s.facts ->> 'customer' is not null),
    standing as (
        select p.* from paid p
         where not exists (select from public.stripe_objects c where c.stripe_id = p.customer and c.facts ->> 'status' = 'deleted')
           and exists (select from public.stripe_objects c where c.stripe_id = p.customer and c.org_id = p_org)),
    chosen as (select s.customer from standing s order by s.observed_at, s.stripe_id limit 1)
    update public.organizations o set stripe_customer_id = c.customer from chosen c
     where o.id = p_org and o.stripe_customer_id is distinct from c.customer
       and (o.stripe_customer_id is null or o.stripe_customer_id in (select p.customer from paid p))
$$;

-- Makes a customer the organisation's, because a checkout that its people opened was completed with it. Of a second one events are heard
-- too, and a person is told.
create function app.link_customer(p_org uuid, p_customer text, p_told_by uuid) returns void
    language plpgsql volatile set search_path = '' as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('stripe:' || p_customer, 0));
    if coalesce(app.stripe_owner(p_customer, array[p_customer]), p_org) <> p_org then
        insert into public.error_logs (org_id, service, error_message)
        values (p_org, 'stripe_webhook', 'A checkout was completed by a customer of another organisation; it was not linked.');
        return;
    end if;
    -- What its events are known by, until one of them is heard.
    insert into public.stripe_objects (org_id, stripe_id, kind, facts, terminal, observed_at, rank, digest, told_by)
    values (p_org, p_customer, 'customer', '{}', false, to_timestamp(0), -1, '', p_told_by) on conflict (stripe_id) do nothing;
    if not found then
        -- While everything is applied anew it is there and knows nothing.
        update public.stripe_objects s set observed_at = to_timestamp(0) where s.stripe_id = p_customer and s.observed_at < to_timestamp(0);
    elsif exists (select from public.stripe_objects s
                          where s.org_id = p_org and s.kind = 'customer' and s.stripe_id <> p_customer and s.facts ->> 'status' is distinct from 'deleted') then
        insert into public.error_logs (org_id, service, error_message)
        values (p_org, 'stripe_webhook', 'A second Stripe customer pays for this organisation: ' || p_customer || '.');
    end if;
end
$$;

-- Records one verified delivery, or one object fetched, with its effect and its audit entry: one round trip. In `p`: event_id, event_type,
-- api_version, occurred_at (seconds), object_id, kind, refs, facts, terminal, rank; `status` and `error` where there is nothing
-- to apply; `again` applies what was applied before, without telling of it again. What came of it, whether others waited for it, and the organisation.
create function app.record_stripe_event(p jsonb, p_raw bytea, out outcome text, out claims boolean, out org_id uuid)
    language plpgsql volatile set search_path = '' as $$
declare
    v_event    text   := p ->> 'event_id';
    v_object   text   := p ->> 'object_id';
    v_kind     text   := p ->> 'kind';
    v_refs     text[] := array(select jsonb_array_elements_text(p -> 'refs') order by 1);
    v_facts    jsonb  := p -> 'facts';
    v_at       timestamptz := to_timestamp((p ->> 'occurred_at')::bigint);
    v_terminal boolean := coalesce((p ->> 'terminal')::boolean, false);
    v_rank     integer := coalesce((p ->> 'rank')::integer, 0);
    v_digest   bytea;
    v_id       uuid := app.uuidv7();
    v_known    public.webhook_events;
    v_was      public.stripe_objects;
    v_wins     boolean := false;
    v_plan     text;
    v_again    boolean := coalesce((p ->> 'again')::boolean, false);
begin
    claims := false;
    if not v_again then
        -- Deliveries that share an id take turns, so that one that links and one that waits for it do not miss each other.
        perform pg_advisory_xact_lock(hashtextextended('stripe:' || r.id, 0))
           from (select distinct i as id from unnest(v_refs || array[coalesce(v_object, v_event)]) i order by 1) r;
    end if;
    org_id := app.service_org();
    if org_id is null and v_object is not null then
        -- Somebody may have been linked while it waited for its turn.
        perform app.enter_stripe(v_object, p -> 'refs');
        org_id := app.service_org();
    end if;
    -- Of what must be asked for first nobody is the owner: what is fetched finds its own.
    if org_id is null or p ->> 'status' = 'received' then
        org_id := null;
        outcome := case when app.keep_stripe_event(p, p_raw) then coalesce(p ->> 'status', 'unowned') else 'duplicate' end;
        return;
    end if;

    select * into v_known from public.webhook_events e where e.provider = 'stripe' and e.event_id = v_event;
    if v_known.id is null and app.adopt_stripe_event(v_event) then
        select * into v_known from public.webhook_events e where e.provider = 'stripe' and e.event_id = v_event;
    end if;
    if v_known.status in ('applied', 'superseded', 'ignored') and not v_again then
        outcome := 'duplicate';
        return;
    end if;
    v_id := coalesce(v_known.id, v_id);
    if not v_again then
        -- Not while everything is applied anew.
        perform pg_advisory_xact_lock_shared(hashtextextended('stripe.rebuild:' || org_id, 0));
    end if;

    outcome := p ->> 'status';
    if outcome is null then
        v_digest := app.stripe_digest(v_facts);
        if v_kind in ('subscription', 'checkout_session', 'customer') and not v_again then
            -- The plan is of all its subscriptions, and one customer is chosen of all: they take turns.
            perform pg_advisory_xact_lock(hashtextextended('stripe:' || org_id, 0));
        end if;
        select * into v_was from public.stripe_objects s where s.stripe_id = v_object;
        if v_kind = 'invoice' and v_facts ->> 'status' = 'deleted' and not v_facts ? 'created' and v_was.stripe_id is not null then
            -- Stripe only said that it is gone: the rest is as it was told before.
            v_facts := v_was.facts || '{"status": "deleted"}';
            v_digest := app.stripe_digest(v_facts);
        end if;
        if v_was.stripe_id is null then
            v_wins := true;
            insert into public.stripe_objects (org_id, stripe_id, kind, refs, facts, terminal, observed_at, rank, digest, told_by)
            values (org_id, v_object, v_kind, v_refs, v_facts, v_terminal, v_at, v_rank, v_digest, v_id);
        else
            v_wins := (v_terminal, v_at, v_rank, v_digest, v_facts) > (v_was.terminal, v_was.observed_at, v_was.rank, v_was.digest, v_was.facts);
            v_refs := array(select distinct i from unnest(v_was.refs || v_refs) i order by i);
            if v_wins then
                update public.stripe_objects s
                   set refs = v_refs, facts = v_facts, terminal = v_terminal, observed_at = v_at, rank = v_rank, digest = v_digest, told_by = v_id,
                       compared_at = now()
                 where s.stripe_id = v_object;
            elsif v_refs <> v_was.refs then
                update public.stripe_objects s set refs = v_refs where s.stripe_id = v_object;
            end if;
            if (v_terminal, v_at, v_rank) = (v_was.terminal, v_was.observed_at, v_was.rank) and v_digest <> v_was.digest and not v_again then
                -- Two states of one second, and nothing tells which came later: Stripe is asked, once that second is over.
                perform app.admit_service_job('stripe_settle', v_object || ':' || v_event, jsonb_build_object('object_id', v_object), now() + interval '2 seconds');
            end if;
        end if;
        outcome := case when v_wins then 'applied' else 'superseded' end;
        if v_wins and v_facts is distinct from v_was.facts then
            perform app.project_stripe(org_id, v_object, v_kind, v_facts);
        end if;
        if v_wins and v_digest is distinct from v_was.digest then
            if v_kind = 'subscription' then
                v_plan := app.settle_plan(org_id);
            elsif v_kind = 'checkout_session' then
                -- What was paid was paid, whatever we believed of it.
                update public.billing_checkouts c set status = v_facts ->> 'status', session_id = v_object
                 where (c.session_id = v_object
                        or c.session_id is null
                           and c.id = any (array(select substr(r, 10)::uuid from unnest(v_refs) r where r ~ '^checkout:[0-9a-f-]{36}$')))
                   and (v_facts ->> 'status' = 'complete' or v_facts ->> 'status' = 'expired' and c.status in ('creating', 'open'));
                if v_facts ->> 'status' = 'complete' and v_facts ->> 'customer' is not null then
                    perform app.link_customer(org_id, v_facts ->> 'customer', v_id);
                end if;
            end if;
            if v_kind in ('checkout_session', 'customer') then
                perform app.settle_customer(org_id);
            end if;
        end if;
        if v_wins and v_digest is distinct from v_was.digest and not v_again then
            perform app.append_audit('stripe.' || coalesce(p ->> 'event_type', 'fetched'),
                case v_kind when 'invoice' then 'invoices' when 'subscription' then 'subscriptions' else 'stripe_objects' end, v_object,
                jsonb_build_object('event_id', v_event, 'occurred_at', v_at), jsonb_build_object('was', v_was.facts -> 'status'),
                jsonb_strip_nulls(jsonb_build_object('status', v_facts -> 'status', 'amount', v_facts -> 'amount', 'currency', v_facts -> 'currency',
                                                     'plan', v_plan)),
                '{}', null, null, null, null);
        end if;
        claims := not v_again and app.stripe_event_waits(array_append(v_refs, v_object));
        if claims then
            perform app.admit_service_job('stripe_claim', 'waiting:' || v_event, '{}', now());
        end if;
    end if;

    if v_known.id is null then
        insert into public.webhook_events (id, provider, event_id, org_id, raw, event_type, api_version, status, error, object_id, refs, occurred_at)
        values (v_id, 'stripe', v_event, org_id, p_raw, p ->> 'event_type', p ->> 'api_version', outcome, p ->> 'error', v_object, v_refs, v_at)
        on conflict (provider, event_id) do nothing;
    else
        update public.webhook_events e set status = outcome, error = p ->> 'error' where e.id = v_id;
    end if;
end
$$;
comment on function app.record_stripe_event(jsonb, bytea) is
    'Records a delivery of Stripe''s, its effect and its audit entry. applied, superseded, duplicate, ignored, unowned, unparsed or failed.';

-- Begins to apply an organisation's events anew: deliveries wait, and what is known of its objects is forgotten.
create function app.begin_rebuild(p_org uuid) returns void
    language plpgsql volatile set search_path = '' as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('stripe.rebuild:' || p_org, 0));
    -- The rows stay: since when a customer is known is not Stripe's to say.
    update public.stripe_objects s
       set refs = '{}', facts = '{}', terminal = false, observed_at = '-infinity', rank = -1, digest = ''
     where s.org_id = p_org;
end
$$;

-- Sums costs that are in no report into one for each day that has ended. The same snapshot is summed and marked. How many reports.
create function app.insert_meter_reports(p_org uuid, p_before timestamptz) returns bigint
    language plpgsql volatile set search_path = '' as $$
declare
    v_made bigint;
begin
    perform pg_advisory_xact_lock(hashtextextended('meter:' || p_org, 0));
    with costs as (
        select b.id, date_trunc('day', b.created_at, 'UTC') as day, b.quantity, b.cost_micro_usd
          from public.billing_events b
         where b.org_id = p_org and b.meter_report_id is null and b.created_at < p_before and b.cost_micro_usd > 0
           and b.created_at >= app.metered_since(p_org)),
    made as (
        insert into public.meter_reports (org_id, period_start, period_end, quantity, cost_micro_usd, customer_id)
        select p_org, c.day, c.day + interval '1 day', sum(c.quantity), sum(c.cost_micro_usd), o.stripe_customer_id
          from costs c join public.organizations o on o.id = p_org
         where o.stripe_customer_id is not null
         group by c.day, o.stripe_customer_id
        returning id, period_start),
    marked as (
        update public.billing_events b set meter_report_id = m.id
          from costs c join made m on m.period_start = c.day
         where b.org_id = p_org and b.id = c.id)
    select count(*) into v_made from made;
    return v_made;
end
$$;

revoke execute on function app.enter_stripe(text, jsonb), app.settle_plan(uuid), app.project_stripe(uuid, text, text, jsonb),
    app.settle_customer(uuid), app.link_customer(uuid, text, uuid), app.record_stripe_event(jsonb, bytea),
    app.insert_meter_reports(uuid, timestamptz), app.begin_rebuild(uuid) from public;
grant execute on function app.enter_stripe(text, jsonb), app.settle_plan(uuid), app.project_stripe(uuid, text, text, jsonb),
    app.settle_customer(uuid), app.link_customer(uuid, text, uuid), app.record_stripe_event(jsonb, bytea),
    app.insert_meter_reports(uuid, timestamptz), app.begin_rebuild(uuid) to spine_service;

reset role;
