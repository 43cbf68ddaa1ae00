-- Create invoices, subscriptions, plan prices, webhook events and audit seals.
--
-- Locks:   data_ownership exclusively, for one insert.
-- Rollout: expand.
-- Undo:    drop the five tables.

set local role spine_owner;

create table public.invoices (
    id                uuid        primary key default app.uuidv7(),
    org_id            uuid        not null references public.organizations (id) on delete cascade,
    stripe_invoice_id text        not null,
    amount            bigint      not null,
    currency          text        not null,
    status            text        not null,
    period_start      timestamptz,
    period_end        timestamptz,
    paid_at           timestamptz,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    constraint invoices_stripe_invoice_id_key unique (stripe_invoice_id),
    constraint invoices_currency_check check (currency ~ '^[A-Z]{3}$'),
    constraint invoices_status_check check (status in ('draft', 'open', 'paid', 'void', 'uncollectible', 'deleted'))
);
comment on table public.invoices is 'What Stripe bills the organisation, as Stripe tells it.';
comment on column public.invoices.amount is 'In minor units of currency.';
create index invoices_org_id_created_at_idx on public.invoices (org_id, created_at desc);

create table public.subscriptions (
    id                     uuid        primary key default app.uuidv7(),
    org_id                 uuid        not null references public.organizations (id) on delete cascade,
    stripe_subscription_id text        not null,
    stripe_price_id        text        not null,
    status                 text        not null,
    quantity               bigint      not null default 1,
    current_period_start   timestamptz,
    current_period_end     timestamptz,
    cancel_at              timestamptz,
    canceled_at            timestamptz,
    created_at             timestamptz not null default now(),
    updated_at             timestamptz not null default now(),
    constraint subscriptions_stripe_subscription_id_key unique (stripe_subscription_id),
    constraint subscriptions_status_check
        check (status in ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'canceled', 'unpaid', 'paused'))
);
comment on table public.subscriptions is 'What the organisation subscribes to, as Stripe tells it.';
create index subscriptions_org_id_created_at_idx on public.subscriptions (org_id, created_at desc);

create table public.plan_prices (
    stripe_price_id text        primary key,
    plan            text        not null,
    created_at      timestamptz not null default now(),
    constraint plan_prices_plan_check check (plan ~ '^[a-z_]{1,40}$')
);
comment on table public.plan_prices is 'Which plan a Stripe price stands for. Set by an operator.';

create table public.webhook_events (
    id          uuid        primary key default app.uuidv7(),
    provider    text        not null,
    event_id    text        not null,
    org_id      uuid        references public.organizations (id) on delete cascade,
    received_at timestamptz not null default now(),
    raw         bytea       not null,
    event_type  text,
    api_version text,
    status      text        not null default 'received',
    error       text,
    constraint webhook_events_provider_event_id_key unique (provider, event_id),
    constraint webhook_events_provider_check check (provider in ('stripe', 'meta', 'tiktok', 'fortnox')),
    constraint webhook_events_status_check check (status in ('received', 'applied', 'superseded', 'ignored', 'unowned', 'unparsed', 'failed')),
    constraint webhook_events_raw_check check (length(raw) <= 2097152)
);
comment on table public.webhook_events is 'What providers delivered and was verified, byte for byte. A bad signature leaves a metric, never a row.';
comment on column public.webhook_events.org_id is 'Null while nobody is known to own it; then no organisation''s transaction sees it.';
create index webhook_events_org_id_received_at_idx on public.webhook_events (org_id, received_at desc);
create index webhook_events_open_idx on public.webhook_events (provider, received_at) where status in ('received', 'unowned', 'failed');

create table public.audit_seals (
    org_id    uuid        not null,
    first     xid8        not null,
    last      xid8        not null,
    root      bytea       not null,
    signature bytea       not null,
    sealed_at timestamptz not null default now(),
    primary key (org_id, last),
    constraint audit_seals_range_check check (first <= last),
    constraint audit_seals_root_check check (length(root) = 32)
);
comment on table public.audit_seals is 'Signed roots over ranges of the audit log, by transaction. The sweep alone holds the key; like the log, seals outlive all.';
create trigger audit_seals_refuse_change before update or delete or truncate on public.audit_seals
    for each statement execute function app.refuse_change();
alter table public.audit_seals enable always trigger audit_seals_refuse_change;

do $$
declare
    made text;
begin
    foreach made in array array['invoices', 'subscriptions', 'plan_prices', 'webhook_events', 'audit_seals'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
    end loop;
    foreach made in array array['invoices', 'subscriptions', 'webhook_events', 'audit_seals'] loop
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))',
                       made || '_service_insert', made);
        execute format('grant select, insert on public.%I to spine_service', made);
    end loop;
    foreach made in array array['invoices', 'subscriptions', 'webhook_events'] loop
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_update', made);
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id()) and (select app.may(''billing:read'')))',
                       made || '_select', made);
    end loop;
end
$$;
grant select on public.invoices, public.subscriptions to authenticated;
grant update (amount, currency, status, period_start, period_end, paid_at) on public.invoices to spine_service;
grant update (stripe_price_id, status, quantity, current_period_start, current_period_end, cancel_at, canceled_at)
    on public.subscriptions to spine_service;
-- That it came and what became of it; what it said is the system's.
grant select (id, provider, event_id, org_id, received_at, event_type, api_version, status) on public.webhook_events to authenticated;
grant update (status, error, event_type, api_version) on public.webhook_events to spine_service;

create policy plan_prices_select on public.plan_prices for select to authenticated using ((select app.active_org_id()) is not null);
create policy plan_prices_service_select on public.plan_prices for select to spine_service using ((select app.service_org()) is not null);
grant select on public.plan_prices to authenticated, spine_service;

create policy audit_seals_select on public.audit_seals for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('audit:read')));
grant select on public.audit_seals to authenticated;

create trigger invoices_touch before update on public.invoices for each row execute function app.touch_updated_at();
create trigger subscriptions_touch before update on public.subscriptions for each row execute function app.touch_updated_at();

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, owner) values
    ('invoices', 'system'), ('subscriptions', 'system'), ('plan_prices', 'system'), ('webhook_events', 'system'), ('audit_seals', 'system');
alter table public.data_ownership force row level security;

reset role;
