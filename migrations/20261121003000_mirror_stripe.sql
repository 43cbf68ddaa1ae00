-- Create the mirror of Stripe's objects, widen invoices, subscriptions, plan prices and webhook events by what billing shows, and let
-- agents' costs be told to Stripe's meter once.
--
-- Locks:   invoices, subscriptions, plan_prices, webhook_events and billing_events exclusively, for the moment that adding columns takes;
--          data_ownership exclusively, for one insert.
-- Rollout: expand; running code leaves the new columns alone.
-- Undo:    drop the five tables and the columns; invoices and subscriptions are rebuilt from webhook_events.

set local role spine_owner;

-- One row for each object of Stripe's that billing needs, holding the greatest observation of it. Observations are ordered by
-- (terminal, observed_at, rank, digest), which is total, so that any order and number of deliveries leaves the same row.
create table public.stripe_objects (
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    stripe_id   text        not null,
    kind        text        not null,
    refs        text[]      not null default '{}',
    facts       jsonb       not null,
    terminal    boolean     not null,
    observed_at timestamptz not null,
    rank        integer     not null,
    digest      bytea       not null,
    told_by     uuid        not null,
    compared_at timestamptz not null default now(),
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    primary key (stripe_id),
    constraint stripe_objects_org_id_stripe_id_key unique (org_id, stripe_id),
    constraint stripe_objects_kind_check
        check (kind in ('customer', 'invoice', 'subscription', 'checkout_session', 'invoice_payment', 'charge', 'payment_intent', 'refund', 'dispute')),
    constraint stripe_objects_facts_check check (pg_column_size(facts) <= 65536),
    constraint stripe_objects_refs_check check (cardinality(refs) <= 100)
);
comment on table public.stripe_objects is 'What Stripe last said of each object that billing needs: facts without personal data, from the greatest observation.';
comment on column public.stripe_objects.refs is 'Ids of other objects it names. They only grow, so their order of arrival does not matter.';
comment on column public.stripe_objects.terminal is 'Whether the object can change no more: then no later-looking observation of another state counts.';
comment on column public.stripe_objects.observed_at is 'When it was so, by Stripe''s clock, in whole seconds.';
comment on column public.stripe_objects.rank is 'How far along it is, for observations of one second.';
comment on column public.stripe_objects.told_by is 'The webhook event that told it.';
comment on column public.stripe_objects.compared_at is 'When it was last heard of or asked about.';
comment on column public.stripe_objects.digest is 'SHA-256 of the facts but for addresses, which differ each time they are asked for.';
create index stripe_objects_org_id_kind_idx on public.stripe_objects (org_id, kind, observed_at desc);
-- Every delivery asks it, so no list of pending entries, which each question would read from end to end.
create index stripe_objects_refs_idx on public.stripe_objects using gin (refs) with (fastupdate = off);
create index stripe_objects_stale_idx on public.stripe_objects (compared_at) where not terminal and kind in ('invoice', 'subscription');

alter table public.invoices
    add column stripe_subscription_id text,
    add column number                 text,
    add column amount_due             bigint,
    add column amount_paid            bigint,
    add column amount_remaining       bigint,
    add column due_at                 timestamptz,
    add column finalized_at           timestamptz,
    add column voided_at              timestamptz,
    add column attempted              boolean not null default false,
    add column attempt_count          integer not null default 0,
    add column next_payment_attempt   timestamptz,
    add column billing_reason         text,
    add column hosted_invoice_url     text,
    add column invoice_pdf            text;
comment on column public.invoices.amount is 'The total, in minor units of currency.';
comment on column public.invoices.period_start is 'When the service begins that it bills, from its lines.';
comment on column public.invoices.attempted is 'Whether Stripe has tried to collect it. Open and attempted is a payment that failed.';

alter table public.subscriptions
    add column stripe_price_ids     text[]  not null default '{}',
    add column cancel_at_period_end boolean not null default false,
    add column ended_at             timestamptz,
    add column trial_end            timestamptz,
    add column collection_paused    boolean not null default false,
    add column latest_invoice_id    text;
comment on column public.subscriptions.stripe_price_ids is 'All of its prices; stripe_price_id is the first.';

alter table public.plan_prices add column rank integer not null default 0;
comment on column public.plan_prices.rank is 'Of several plans an organisation pays for, the one of the highest rank counts.';

alter table public.webhook_events
    add column object_id    text,
    add column refs         text[] not null default '{}',
    add column occurred_at  timestamptz,
    add column looked_up_at timestamptz;
comment on column public.webhook_events.refs is 'Ids by which its owner may be found: the object''s own, and those it names.';
comment on column public.webhook_events.looked_up_at is 'When the provider was asked whose it is, or what it is about.';
comment on column public.webhook_events.status is 'superseded: something newer was known. unowned: nobody is known to own it yet.';
create index webhook_events_unowned_idx on public.webhook_events using gin (refs) with (fastupdate = off) where org_id is null;
create index webhook_events_left_idx on public.webhook_events (received_at) where status = 'received' and org_id is not null;
create index webhook_events_org_id_object_id_idx on public.webhook_events (org_id, object_id, occurred_at desc);

-- Checkout sessions that this organisation's people opened: what makes a customer theirs.
create table public.billing_checkouts (
    id              uuid        primary key default gen_random_uuid(),
    org_id          uuid        not null references public.organizations (id) on delete cascade,
    stripe_price_id text        not null,
    success_url     text        not null,
    cancel_url      text        not null,
    customer_id     text,
    session_id      text,
    url             text,
    status          text        not null default 'creating',
    created_by      uuid        not null,
    expires_at      timestamptz not null default now() + interval '24 hours',
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    constraint billing_checkouts_org_id_id_key unique (org_id, id),
    constraint billing_checkouts_session_id_key unique (session_id),
    constraint billing_checkouts_status_check check (status in ('creating', 'open', 'complete', 'expired'))
);
comment on table public.billing_checkouts is 'Stripe Checkout sessions that people of the organisation opened. Only their completion makes a customer the organisation''s.';
comment on column public.billing_checkouts.success_url is 'What Stripe was told, and is told again under the same key, as are cancel_url and customer_id.';
comment on column public.billing_checkouts.id is 'Random, and Stripe''s client_reference_id: a session that completes before its id is stored is known by it.';
create index billing_checkouts_org_id_created_at_idx on public.billing_checkouts (org_id, created_at desc);

-- What was told to Stripe's meter. A cost is in one report, and a report is told under one identifier.
create table public.meter_reports (
    id             uuid        primary key default app.uuidv7(),
    org_id         uuid        not null references public.organizations (id) on delete cascade,
    period_start   timestamptz not null,
    period_end     timestamptz not null,
    quantity       bigint      not null,
    cost_micro_usd bigint      not null,
    customer_id    text        not null,
    status         text        not null default 'open',
    first_tried_at timestamptz,
    reported_at    timestamptz,
    error          text,
    created_at     timestamptz not null default now(),
    constraint meter_reports_org_id_id_key unique (org_id, id),
    constraint meter_reports_status_check check (status in ('open', 'reported', 'uncertain', 'refused')),
    constraint meter_reports_period_check check (period_start < period_end)
);
comment on table public.meter_reports is 'Agents'' costs as they are told to Stripe''s meter, summed per day. Each billing event is in one report at most.';
comment on column public.meter_reports.status is 'uncertain: tried, unanswered, and too long ago for Stripe to tell a repetition; a person decides.';
create index meter_reports_org_id_period_start_idx on public.meter_reports (org_id, period_start desc);
create index meter_reports_open_idx on public.meter_reports (created_at) where status = 'open';

alter table public.billing_events add column meter_report_id uuid;
alter table public.billing_events add constraint billing_events_org_id_meter_report_id_fkey
    foreign key (org_id, meter_report_id) references public.meter_reports (org_id, id) not valid;
comment on column public.billing_events.meter_report_id is 'The report it was summed into.';
create index billing_events_org_id_meter_report_id_idx on public.billing_events (org_id, meter_report_id);
create index billing_events_unreported_idx on public.billing_events (created_at) where meter_report_id is null;

-- Runs of the reconciliation, of the whole installation: how far it came, and what it found.
create table public.billing_reconciliations (
    id            uuid        primary key default app.uuidv7(),
    since         timestamptz not null,
    until         timestamptz not null,
    started_at    timestamptz not null default now(),
    finished_at   timestamptz,
    listed        integer     not null default 0,
    missed        integer     not null default 0,
    compared      integer     not null default 0,
    drifted       integer     not null default 0,
    error         text,
    constraint billing_reconciliations_window_check check (since < until)
);
comment on table public.billing_reconciliations is 'What was compared with Stripe and when: events listed and missed, objects compared and found to differ.';
create index billing_reconciliations_started_at_idx on public.billing_reconciliations (started_at desc);
create index billing_reconciliations_finished_idx on public.billing_reconciliations (until desc) where finished_at is not null;

do $$
declare
    made text;
begin
    foreach made in array array['stripe_objects', 'billing_checkouts', 'meter_reports', 'billing_reconciliations'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
    end loop;
    foreach made in array array['stripe_objects', 'billing_checkouts', 'meter_reports'] loop
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''billing:read'')))',
                       made || '_select', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_update', made);
        execute format('grant select on public.%I to authenticated, spine_service', made);
    end loop;
    foreach made in array array['stripe_objects', 'meter_reports'] loop
        execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))',
                       made || '_service_insert', made);
        execute format('grant insert on public.%I to spine_service', made);
    end loop;
end
$$;
grant update (refs, facts, terminal, observed_at, rank, digest, told_by, compared_at) on public.stripe_objects to spine_service;
grant update (status, session_id) on public.billing_checkouts to spine_service;
grant update (status, first_tried_at, reported_at, error) on public.meter_reports to spine_service;

-- Opened inside a function, where the key to Stripe is.
create policy billing_checkouts_caller_insert on public.billing_checkouts for insert to spine_caller
    with check (org_id = (select app.active_org_id()) and (select app.may('billing:manage')) and created_by = (select app.uid()));
create policy billing_checkouts_caller_update on public.billing_checkouts for update to spine_caller
    using (org_id = (select app.active_org_id()) and (select app.may('billing:manage')));
grant insert (id, org_id, stripe_price_id, success_url, cancel_url, customer_id, created_by) on public.billing_checkouts to spine_caller;
grant update (session_id, url, status, expires_at) on public.billing_checkouts to spine_caller;
-- Whom to open a page for; only inside a function.
grant select (stripe_customer_id) on public.organizations to spine_caller;

create policy billing_events_service_update on public.billing_events for update to spine_service using (org_id = (select app.service_org()));
grant update (meter_report_id) on public.billing_events to spine_service;

grant update (stripe_subscription_id, number, amount_due, amount_paid, amount_remaining, due_at, finalized_at, voided_at, attempted,
              attempt_count, next_payment_attempt, billing_reason, hosted_invoice_url, invoice_pdf) on public.invoices to spine_service;
grant update (stripe_price_ids, cancel_at_period_end, ended_at, trial_end, collection_paused, latest_invoice_id)
    on public.subscriptions to spine_service;
grant select (object_id, occurred_at) on public.webhook_events to authenticated;

-- The definer answers whose an object is, keeps what nobody owns yet, and leads the reconciliation.
create policy stripe_objects_definer_select on public.stripe_objects for select to spine_definer using (true);
create policy billing_checkouts_definer_select on public.billing_checkouts for select to spine_definer using (true);
create policy meter_reports_definer_select on public.meter_reports for select to spine_definer using (true);
create policy billing_events_definer_select on public.billing_events for select to spine_definer using (true);
create policy subscriptions_definer_select on public.subscriptions for select to spine_definer using (true);
create policy plan_prices_definer_select on public.plan_prices for select to spine_definer using (true);
create policy stripe_objects_definer_delete on public.stripe_objects for delete to spine_definer using (true);
create policy invoices_definer_select on public.invoices for select to spine_definer using (true);
create policy invoices_definer_delete on public.invoices for delete to spine_definer using (true);
create policy subscriptions_definer_delete on public.subscriptions for delete to spine_definer using (true);
create policy webhook_events_definer_select on public.webhook_events for select to spine_definer using (true);
create policy webhook_events_definer_insert on public.webhook_events for insert to spine_definer with check (org_id is null);
create policy webhook_events_definer_update on public.webhook_events for update to spine_definer using (org_id is null) with check (true);
create policy billing_reconciliations_definer_select on public.billing_reconciliations for select to spine_definer using (true);
create policy billing_reconciliations_definer_insert on public.billing_reconciliations for insert to spine_definer with check (true);
create policy billing_reconciliations_definer_update on public.billing_reconciliations for update to spine_definer using (true) with check (true);
grant select on public.stripe_objects, public.billing_checkouts, public.meter_reports, public.billing_events, public.subscriptions,
    public.invoices, public.plan_prices, public.webhook_events, public.billing_reconciliations to spine_definer;
grant delete on public.stripe_objects, public.invoices, public.subscriptions to spine_definer;
grant insert on public.webhook_events, public.billing_reconciliations to spine_definer;
grant update (org_id, status, refs, looked_up_at) on public.webhook_events to spine_definer;
grant update (finished_at, listed, missed, compared, drifted, error, until) on public.billing_reconciliations to spine_definer;

create trigger stripe_objects_touch before update on public.stripe_objects for each row execute function app.touch_updated_at();
create trigger billing_checkouts_touch before update on public.billing_checkouts for each row execute function app.touch_updated_at();
call app.audit_table('billing_checkouts', 'id', 'stripe_price_id,session_id,status');

-- Where an organisation stands with what it pays for, one row each; whoever may read its billing sees it.
create view public.billing_overview with (security_invoker = true) as
select o.id as org_id, o.plan, s.stripe_subscription_id, s.status as subscription_status, s.stripe_price_id, s.quantity,
       s.current_period_end, s.cancel_at, s.cancel_at_period_end, s.trial_end,
       i.stripe_invoice_id as open_invoice_id, i.amount_remaining as open_amount, i.currency as open_currency, i.attempt_count,
       i.next_payment_attempt, i.hosted_invoice_url, d.open as open_disputes,
       case when d.open > 0 then 'disputed'
            when s.stripe_subscription_id is null then 'none'
            when s.status in ('past_due', 'unpaid', 'incomplete') and p.event_type = 'invoice.payment_action_required' then 'action_required'
            when s.status in ('active', 'trialing') and s.collection_paused then 'collection_paused'
            when s.status in ('active', 'trialing') and i.stripe_invoice_id is not null then 'payment_failed'
            when s.status in ('active', 'trialing') and (s.cancel_at_period_end or s.cancel_at is not null) then 'canceling'
            else s.status end as state
  from public.organizations o
  left join lateral (
       select x.* from public.subscriptions x where x.org_id = o.id
        order by x.status in ('active', 'trialing', 'past_due', 'unpaid', 'paused', 'incomplete') desc, x.created_at desc, x.id desc
        limit 1) s on true
  left join lateral (
       select x.* from public.invoices x
        where x.org_id = o.id and x.status = 'open' and x.attempted and x.amount_remaining > 0
        order by x.created_at, x.id limit 1) i on true
  left join lateral (
       select w.event_type from public.webhook_events w
        where w.org_id = o.id and w.object_id = i.stripe_invoice_id
          and w.event_type in ('invoice.payment_action_required', 'invoice.payment_failed')
        order by w.occurred_at desc, w.event_type limit 1) p on true
 cross join lateral (
       select count(*) filter (where x.facts ->> 'status' in ('needs_response', 'warning_needs_response', 'under_review', 'warning_under_review')) as open
         from public.stripe_objects x where x.org_id = o.id and x.kind = 'dispute') d
 where (select app.may('billing:read'));
comment on view public.billing_overview is
    'Where the organisation stands with what it pays for. state: none, incomplete, trialing, active, canceling, payment_failed, action_required, past_due, unpaid, paused, collection_paused, disputed, canceled or incomplete_expired.';
grant select on public.billing_overview to authenticated;

-- Refunds and disputes, with the invoice that their payment was for, where it is known.
create view public.billing_adjustments with (security_invoker = true) as
select a.org_id, a.stripe_id, a.kind, a.facts ->> 'status' as status, (a.facts ->> 'amount')::bigint as amount, a.facts ->> 'currency' as currency,
       a.facts ->> 'reason' as reason, a.observed_at,
       (select min(coalesce(l.facts ->> 'invoice', l.stripe_id)) from public.stripe_objects l
         where l.org_id = a.org_id and l.kind in ('invoice', 'invoice_payment') and l.refs && (a.refs || c.refs)) as stripe_invoice_id
  from public.stripe_objects a
 cross join lateral (
       -- A dispute may name the charge alone, and a payment of an invoice the intent alone: the charge knows both. Customers are not
       -- what binds a payment.
       select coalesce(array_agg(r.ref), '{}') as refs from public.stripe_objects x cross join unnest(x.refs) r (ref)
        where x.org_id = a.org_id and x.kind in ('charge', 'payment_intent') and (x.stripe_id = any (a.refs) or x.refs && a.refs)
          and r.ref not like 'cus\_%') c
 where a.kind in ('refund', 'dispute');
comment on view public.billing_adjustments is 'Refunds and disputes, with the invoice that their payment was for, where it is known. Amounts in minor units.';
grant select on public.billing_adjustments to authenticated;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, owner) values
    ('stripe_objects', 'system'), ('billing_checkouts', 'system'), ('meter_reports', 'system'), ('billing_reconciliations', 'system');
alter table public.data_ownership force row level security;

reset role;
