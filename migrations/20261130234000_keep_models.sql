-- Keep the models that agents call as rows: what each makes, when it ends, and which of them each agent takes for what.
--
-- Locks:   model_prices for the moment that a foreign key takes, and exclusively for an insert; data_ownership exclusively, for one insert.
-- Rollout: expand. Functions of before go on with the models of their environment; those of now read these rows. Where the environment named
--          other models, set them here before the functions are deployed. A price of a model that is neither Anthropic's nor Gemini's, or
--          whose id is no plain one, stops this migration: nothing reads such a row, delete it.
-- Undo:    drop model_roles, the foreign key of model_prices, models and app.miss_model; the prices may stay.

set local role spine_owner;

create table public.models (
    id             uuid        primary key default app.uuidv7(),
    provider       text        not null,
    model          text        not null,
    makes          text        not null,
    enabled        boolean     not null default true,
    retires_at     timestamptz,
    thinks         boolean     not null default true,
    picture_tokens integer,
    image_size     text,
    missed_at      timestamptz,
    noticed_end    timestamptz,
    source         text        not null default '',

    constraint models_key unique (provider, model),
    -- It becomes part of an address.
    constraint models_model_check check (model ~ '^[a-z0-9][a-z0-9._-]{0,99}$' and model !~ '\.\.'),
    -- What there is a client for.
    constraint models_makes_check check ((provider, makes) in (('anthropic', 'text'), ('gemini', 'picture'))),
    constraint models_picture_check check (
        case when makes = 'picture' then picture_tokens between 1 and 100000 and image_size in ('512', '1K', '2K', '4K') is not false
             else picture_tokens is null and image_size is null end),
    constraint models_source_check check (length(source) <= 500)
);
comment on table public.models is 'Models that agents may call, set by an operator. One without a price is not called.';
comment on column public.models.model is 'Its id at the provider.';
comment on column public.models.makes is 'What it answers with: text, or a picture made from one.';
comment on column public.models.enabled is 'Whether it is called at all.';
comment on column public.models.retires_at is 'From when on the provider does not serve it: it is taken only if there is no other. Null is not known.';
comment on column public.models.thinks is 'Whether it may think before it answers: then an answer that does not count thoughts is not reported in full.';
comment on column public.models.picture_tokens is 'The most tokens one picture takes, for the reservation.';
comment on column public.models.image_size is 'The size that a picture is asked for in. Null is the model''s own, for models that take none.';
comment on column public.models.missed_at is 'When the provider last said that it knows no such model. For an hour others go before it.';
comment on column public.models.noticed_end is 'The end that the operator was told of, thirty days before it. Once for each end.';
comment on column public.models.source is 'Where this is known from.';

create table public.model_roles (
    id       uuid not null primary key default app.uuidv7(),
    agent    text not null,
    purpose  text not null,
    role     text not null,
    provider text not null,
    model    text not null,

    constraint model_roles_provider_model_fkey foreign key (provider, model) references public.models (provider, model),
    constraint model_roles_agent_check check (agent ~ '^[a-z_]{1,50}$' and purpose ~ '^[a-z_]{1,50}$'),
    constraint model_roles_role_check check (role in ('default', 'cheaper', 'spare')),
    constraint model_roles_purpose_check check ((purpose = 'render_picture') = (provider = 'gemini'))
);
comment on table public.model_roles is 'Which models an agent takes for what. What has no row is not called.';
comment on column public.model_roles.purpose is 'As in provider_calls.purpose.';
comment on column public.model_roles.role is
    'default: taken first. cheaper: where that one has no quota or no room under a limit, and after it. spare: after both; people may name it.';
-- One default and one cheaper model, and as many others as there are.
create unique index model_roles_agent_purpose_role_key on public.model_roles (agent, purpose, role) where role <> 'spare';
create unique index model_roles_agent_purpose_provider_model_key on public.model_roles (agent, purpose, provider, model) where role = 'spare';
create index model_roles_provider_model_idx on public.model_roles (provider, model);

-- Prices as the source of each model below has them, in micro-USD per million tokens. A picture that is sent costs as text does:
-- 1,120 tokens at $0.50 a million are the $0.00056 that price lists name.
alter table public.model_prices no force row level security;
insert into public.model_prices (provider, model, unit, micro_usd_per_million, tier, effective_from)
select 'gemini', model, unit, price, tier, '2026-01-01'
  from (values
    ('gemini-3.1-flash-image', 'input', 500000, 0), ('gemini-3.1-flash-image', 'output', 3000000, 0),
    ('gemini-3.1-flash-image', 'image_output', 60000000, 0),
    ('gemini-3.1-flash-lite-image', 'input', 250000, 0), ('gemini-3.1-flash-lite-image', 'output', 1500000, 0),
    ('gemini-3.1-flash-lite-image', 'image_output', 30000000, 0),
    -- For prompts of more than 200,000 tokens.
    ('gemini-3-pro-image', 'input', 4000000, 200000), ('gemini-3-pro-image', 'output', 18000000, 200000)) as p (model, unit, price, tier)
    on conflict do nothing;

insert into public.models (provider, model, makes, retires_at, noticed_end, thinks, picture_tokens, image_size, source) values
    ('gemini', 'gemini-3.1-flash-image', 'picture', '2027-05-28', null, true, 1120, '1K',
     'litellm 1.110.2, read 2026-11-29: $0.50 and $3 a million tokens, $60 for pictures; 1,120 tokens at 1K; end as on Vertex AI'),
    ('gemini', 'gemini-3.1-flash-lite-image', 'picture', null, null, true, 1120, '1K',
     'litellm 1.110.2, read 2026-11-29: $0.25 and $1.50 a million tokens, $30 for pictures, $0.0336 at 1K; at most 4,096 tokens of output'),
    ('gemini', 'gemini-3-pro-image', 'picture', '2027-05-28', null, true, 1120, '1K',
     'litellm 1.110.2, read 2026-11-29: $2 and $12 a million tokens ($4 and $18 over 200,000), $120 for pictures; end as on Vertex AI'),
    -- Of two ends that sources name, the earlier one (the other is 2027-03-15). It is past: there is nothing to be told of any more.
    ('gemini', 'gemini-2.5-flash-image', 'picture', '2026-10-02', '2026-10-02', false, 1290, null,
     'Google''s list of deprecations as two repositories copied it: ends 2026-10-02; litellm 1.110.2 has 2027-03-15'),
    ('anthropic', 'claude-haiku-5-5', 'text', null, null, true, null, null, 'platform.claude.com, pricing, read October 2026'),
    ('anthropic', 'claude-sonnet-5-5', 'text', null, null, true, null, null, 'platform.claude.com, pricing, read October 2026');
-- Models that an operator priced before there was this table. No agent has them before a role says so.
insert into public.models (provider, model, makes, picture_tokens, source)
select distinct p.provider, p.model, case p.provider when 'gemini' then 'picture' else 'text' end,
       case p.provider when 'gemini' then 2000 end, 'had a price before models were kept'
  from public.model_prices p
    on conflict do nothing;
alter table public.model_prices force row level security;

insert into public.model_roles (agent, purpose, role, provider, model) values
    ('renderer', 'render_brief', 'default', 'anthropic', 'claude-haiku-5-5'),
    ('renderer', 'render_brief', 'spare', 'anthropic', 'claude-sonnet-5-5'),
    ('renderer', 'render_picture', 'default', 'gemini', 'gemini-3.1-flash-image'),
    ('renderer', 'render_picture', 'cheaper', 'gemini', 'gemini-3.1-flash-lite-image'),
    ('renderer', 'render_picture', 'spare', 'gemini', 'gemini-3-pro-image'),
    -- People have named it; it is taken only if there is no other.
    ('renderer', 'render_picture', 'spare', 'gemini', 'gemini-2.5-flash-image'),
    ('analyst', 'insight_summary', 'default', 'anthropic', 'claude-sonnet-5-5'),
    ('analyst', 'insight_summary', 'cheaper', 'anthropic', 'claude-haiku-5-5'),
    ('lead_assigner', 'lead_adjustment', 'default', 'anthropic', 'claude-haiku-5-5'),
    ('lead_assigner', 'lead_adjustment', 'spare', 'anthropic', 'claude-sonnet-5-5'),
    ('social_assistant', 'social_sentiment', 'default', 'anthropic', 'claude-haiku-5-5'),
    ('social_assistant', 'social_sentiment', 'spare', 'anthropic', 'claude-sonnet-5-5'),
    ('social_assistant', 'social_draft', 'default', 'anthropic', 'claude-haiku-5-5'),
    ('social_assistant', 'social_draft', 'spare', 'anthropic', 'claude-sonnet-5-5');

alter table public.model_prices
    add constraint model_prices_provider_model_fkey foreign key (provider, model) references public.models (provider, model);

-- Models are no tenant's, as prices are.
alter table public.models enable row level security;
alter table public.models force row level security;
alter table public.model_roles enable row level security;
alter table public.model_roles force row level security;
create policy models_select on public.models for select to authenticated using ((select app.active_org_id()) is not null);
create policy models_agent_select on public.models for select to spine_agent using ((select app.agent_org_id()) is not null);
create policy models_service_select on public.models for select to spine_service using ((select app.service_org()) is not null);
create policy models_definer_all on public.models for all to spine_definer using (true) with check (true);
grant select on public.models to authenticated, spine_agent, spine_service, spine_definer;
grant update (missed_at, noticed_end) on public.models to spine_definer;
create policy model_roles_select on public.model_roles for select to authenticated using ((select app.active_org_id()) is not null);
create policy model_roles_agent_select on public.model_roles for select to spine_agent using ((select app.agent_org_id()) is not null);
create policy model_roles_service_select on public.model_roles for select to spine_service using ((select app.service_org()) is not null);
create policy model_roles_definer_select on public.model_roles for select to spine_definer using (true);
grant select on public.model_roles to authenticated, spine_agent, spine_service, spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values ('models', null, 'system'), ('model_roles', null, 'system');
alter table public.data_ownership force row level security;

reset role;
set local role spine_definer;

create function app.miss_model(p_provider text, p_model text) returns void
    language sql volatile security definer set search_path = '' as $$
    -- One call in a minute writes it: a model that is gone is asked by many at once.
    update public.models m set missed_at = now()
     where m.provider = p_provider and m.model = p_model and (m.missed_at is null or m.missed_at < now() - interval '1 minute')
$$;
comment on function app.miss_model(text, text) is 'Notes that the provider knows no such model, so that others go before it for an hour.';
grant execute on function app.miss_model(text, text) to spine_service;

create function app.notice_ending_models() returns table (provider text, model text, retires_at timestamptz)
    language sql volatile security definer set search_path = '' as $$
    update public.models m set noticed_end = m.retires_at
     where m.enabled and m.retires_at <= now() + interval '30 days' and m.noticed_end is distinct from m.retires_at
       and exists (select from public.model_roles r where r.provider = m.provider and r.model = m.model)
    returning m.provider, m.model, m.retires_at
$$;
comment on function app.notice_ending_models() is 'Models in use whose end is thirty days away or less, each told once for each end.';
grant execute on function app.notice_ending_models() to spine_service;

reset role;
