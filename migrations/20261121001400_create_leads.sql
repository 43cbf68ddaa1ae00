-- Create leads with notes, scores and capacity, and the deterministic score.
--
-- Locks:   data_ownership exclusively, for one insert; org_members for the moment that a foreign key takes.
-- Rollout: expand.
-- Undo:    drop the four tables and the functions of this file.

set local role spine_owner;

create table public.leads (
    id              uuid        primary key default app.uuidv7(),
    org_id          uuid        not null references public.organizations (id) on delete cascade,
    client_name     text        not null,
    email           text,
    phone           text,
    source          text        not null default 'other',
    budget_minor    bigint,
    currency        text,
    territory       text,
    wanted_skills   text[]      not null default '{}',
    assigned_to     uuid,
    assigned_at     timestamptz,
    status          text        not null default 'new',
    last_contact_at timestamptz,
    closed_at       timestamptz,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),

    constraint leads_org_id_id_key unique (org_id, id),
    constraint leads_client_name_check check (length(client_name) between 1 and 200),
    constraint leads_contact_check check (length(email) <= 320 and length(phone) <= 50 and length(territory) <= 100),
    constraint leads_source_check check (source ~ '^[a-z_]{1,40}$'),
    constraint leads_budget_check check (budget_minor >= 0 and (budget_minor is null) = (currency is null) and currency ~ '^[A-Z]{3}$'),
    constraint leads_wanted_skills_check check (cardinality(wanted_skills) <= 20 and pg_column_size(wanted_skills) <= 4000),
    constraint leads_status_check check (status in ('new', 'contacted', 'qualified', 'proposal', 'won', 'lost')),
    constraint leads_closed_check check ((closed_at is not null) = (status in ('won', 'lost'))),
    -- Only staff work on leads; when somebody leaves, theirs are free again.
    constraint leads_org_id_assigned_to_fkey
        foreign key (org_id, assigned_to) references public.org_members (org_id, user_id) on delete set null (assigned_to)
);
comment on table public.leads is 'Somebody who may become a client.';
comment on column public.leads.budget_minor is 'In minor units of currency.';
create index leads_org_id_created_at_idx on public.leads (org_id, created_at desc);
create index leads_org_id_assigned_to_idx on public.leads (org_id, assigned_to, created_at desc);

create table public.lead_notes (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null,
    lead_id    uuid        not null,
    note       text        not null,
    created_by uuid        default app.uid() references public.profiles (id) on delete set null,
    created_at timestamptz not null default now(),
    constraint lead_notes_note_check check (length(note) between 1 and 20000),
    -- A note cannot belong to another organisation than its lead.
    constraint lead_notes_org_id_lead_id_fkey foreign key (org_id, lead_id) references public.leads (org_id, id) on delete cascade
);
comment on table public.lead_notes is 'What was said with a lead, in order. Never edited.';
create index lead_notes_org_id_lead_id_idx on public.lead_notes (org_id, lead_id, created_at);
create index lead_notes_created_by_idx on public.lead_notes (created_by);

create table public.lead_scoring (
    id         uuid         primary key default app.uuidv7(),
    org_id     uuid         not null,
    lead_id    uuid         not null,
    score      numeric(5,2) not null,
    rationale  text         not null,
    factors    jsonb        not null,
    model      text         not null,
    created_at timestamptz  not null default now(),
    constraint lead_scoring_score_check check (score between 0 and 100),
    constraint lead_scoring_size_check check (length(rationale) <= 5000 and pg_column_size(factors) <= 65536),
    constraint lead_scoring_org_id_lead_id_fkey foreign key (org_id, lead_id) references public.leads (org_id, id) on delete cascade
);
comment on table public.lead_scoring is 'What a lead was worth when it was looked at, from 0 to 100, and why. The newest counts.';
comment on column public.lead_scoring.model is '`rules` for the deterministic score, else the model that moved it.';
create index lead_scoring_org_id_lead_id_idx on public.lead_scoring (org_id, lead_id, created_at desc);

create table public.lead_capacity (
    org_id      uuid        not null,
    user_id     uuid        not null,
    max_open    integer     not null default 10,
    skills      text[]      not null default '{}',
    territories text[]      not null default '{}',
    available   boolean     not null default true,
    updated_at  timestamptz not null default now(),
    primary key (org_id, user_id),
    constraint lead_capacity_max_open_check check (max_open between 0 and 1000),
    constraint lead_capacity_size_check check (cardinality(skills) <= 100 and cardinality(territories) <= 100
                                              and pg_column_size(skills) <= 8000 and pg_column_size(territories) <= 8000),
    constraint lead_capacity_org_id_user_id_fkey
        foreign key (org_id, user_id) references public.org_members (org_id, user_id) on delete cascade
);
comment on table public.lead_capacity is 'How many open leads a person takes, what they are good at and where. Territories of none mean everywhere.';

do $$
declare
    made text;
begin
    foreach made in array array['leads', 'lead_notes', 'lead_scoring', 'lead_capacity'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('grant select on public.%I to spine_service', made);
    end loop;
end
$$;

create policy leads_select on public.leads for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('leads:read_all')) then true else assigned_to = (select app.uid()) end);
create policy leads_insert on public.leads for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('leads:create')));
create policy leads_update on public.leads for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:update'))
           and case when (select app.may('leads:read_all')) then true else assigned_to = (select app.uid()) end);
create policy leads_delete on public.leads for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:delete')));
create policy leads_agent_select on public.leads for select to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('leads:read')));
create policy leads_agent_update on public.leads for update to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('leads:assign')));
create policy leads_service_insert on public.leads for insert to spine_service with check (org_id = (select app.service_org()));
create policy leads_service_update on public.leads for update to spine_service using (org_id = (select app.service_org()));
grant select, delete on public.leads to authenticated;
grant insert (id, org_id, client_name, email, phone, source, budget_minor, currency, territory, wanted_skills) on public.leads to authenticated;
grant update (client_name, email, phone, source, budget_minor, currency, territory, wanted_skills, status, last_contact_at, closed_at)
    on public.leads to authenticated;
-- Assignment weighs everybody's capacity at once, so it is nobody's by hand: agents and the system make it.
grant select on public.leads to spine_agent;
grant update (assigned_to, assigned_at) on public.leads to spine_agent;
grant insert on public.leads to spine_service;
grant update (assigned_to, assigned_at, status, last_contact_at, closed_at) on public.leads to spine_service;

-- Whoever sees the lead sees its notes and scores: the sub-select runs under the policies of leads. Correlated, since
-- `in (select …)` would hash every lead that the caller may see.
create policy lead_notes_select on public.lead_notes for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.leads l where l.org_id = lead_notes.org_id and l.id = lead_notes.lead_id));
create policy lead_notes_insert on public.lead_notes for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('leads:update'))
                and exists (select from public.leads l where l.org_id = lead_notes.org_id and l.id = lead_notes.lead_id));
create policy lead_notes_agent_select on public.lead_notes for select to spine_agent
    using (org_id = (select app.agent_org_id())
           and exists (select from public.leads l where l.org_id = lead_notes.org_id and l.id = lead_notes.lead_id));
-- No update, no delete: a correction is another note.
grant select on public.lead_notes to authenticated, spine_agent;
grant insert (id, org_id, lead_id, note) on public.lead_notes to authenticated;

create policy lead_scoring_select on public.lead_scoring for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.leads l where l.org_id = lead_scoring.org_id and l.id = lead_scoring.lead_id));
create policy lead_scoring_agent_select on public.lead_scoring for select to spine_agent
    using (org_id = (select app.agent_org_id())
           and exists (select from public.leads l where l.org_id = lead_scoring.org_id and l.id = lead_scoring.lead_id));
create policy lead_scoring_agent_insert on public.lead_scoring for insert to spine_agent
    with check (org_id = (select app.agent_org_id()) and (select app.agent_may('lead_scores:create')) and model <> 'rules');
create policy lead_scoring_service_insert on public.lead_scoring for insert to spine_service with check (org_id = (select app.service_org()));
create policy lead_scoring_definer_insert on public.lead_scoring for insert to spine_definer with check (true);
grant select on public.lead_scoring to authenticated, spine_agent;
-- When it was said is not the sayer's to choose, and the rules' score is the rules' own.
grant insert (id, org_id, lead_id, score, rationale, factors, model) on public.lead_scoring to spine_agent, spine_service;
grant insert on public.lead_scoring to spine_definer;

create policy lead_capacity_select on public.lead_capacity for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('leads:read_all')) then true else user_id = (select app.uid()) end);
create policy lead_capacity_insert on public.lead_capacity for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy lead_capacity_update on public.lead_capacity for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy lead_capacity_delete on public.lead_capacity for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('leads:manage')));
create policy lead_capacity_agent_select on public.lead_capacity for select to spine_agent
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('leads:assign')));
grant select, delete on public.lead_capacity to authenticated;
grant insert (org_id, user_id, max_open, skills, territories, available) on public.lead_capacity to authenticated;
grant update (max_open, skills, territories, available) on public.lead_capacity to authenticated;
grant select on public.lead_capacity to spine_agent;

create policy leads_definer_select on public.leads for select to spine_definer using (true);
create policy lead_notes_definer_select on public.lead_notes for select to spine_definer using (true);
grant select on public.leads, public.lead_notes to spine_definer;

call app.audit_table('leads', 'id', 'source,assigned_to,assigned_at,status,closed_at');
call app.audit_table('lead_notes', 'id', 'lead_id,created_by');
call app.audit_table('lead_scoring', 'id', 'lead_id,score,model');
call app.audit_table('lead_capacity', 'org_id,user_id', 'max_open,available');
create trigger leads_touch before update on public.leads for each row execute function app.touch_updated_at();
create trigger lead_capacity_touch before update on public.lead_capacity for each row execute function app.touch_updated_at();

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('leads', null, 'human'), ('leads', 'assigned_to', 'agent'), ('leads', 'assigned_at', 'agent'), ('lead_notes', null, 'human'),
    ('lead_scoring', null, 'agent'), ('lead_capacity', null, 'human');
alter table public.data_ownership force row level security;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- The deterministic score: six factors from 0 to 1 and their weights, which sum to 100. All of it is read from the organisation's
-- own rows as they are at `p_now`, so that asking twice tells the same.
create function app.lead_score(p_org uuid, p_lead uuid, p_now timestamptz, out score numeric, out factors jsonb)
    language sql stable set search_path = '' as $$
    with l as (select * from public.leads x where x.org_id = p_org and x.id = p_lead),
    outcomes as (
        select count(*) filter (where o.status = 'won') as won, count(*) as closed,
               count(*) filter (where o.status = 'won' and o.source = l.source) as won_here,
               count(*) filter (where o.source = l.source) as closed_here
          from l join public.leads o on o.org_id = l.org_id and o.status in ('won', 'lost') and o.id <> l.id
    ),
    budgets as (
        select percentile_cont(0.5) within group (order by b.budget_minor) as middle
          from l join public.leads b on b.org_id = l.org_id and b.currency = l.currency and b.id <> l.id
    ),
    noted as (select count(*) as notes from l join public.lead_notes n on n.org_id = l.org_id and n.lead_id = l.id),
    factor (name, weight, value) as (
        select f.* from l, outcomes, budgets, noted, lateral (values
            ('source', 15.0, case l.source when 'referral' then 1.0 when 'website' then 0.7 when 'event' then 0.6 when 'social' then 0.5
                                           when 'ads' then 0.4 else 0.3 end),
            ('completeness', 15.0, ((l.email is not null)::int + (l.phone is not null)::int + (l.budget_minor is not null)::int
                                    + (l.territory is not null)::int) / 4.0),
            -- Beside what others of the organisation offer in the same currency: twice the middle or more is all of it.
            ('budget', 20.0, case when l.budget_minor is null then 0.2 when coalesce(budgets.middle, 0) = 0 then 0.5
                                  else least(1.0, l.budget_minor / (2.0 * budgets.middle::numeric)) end),
            -- Halves every fortnight.
            ('recency', 15.0, power(0.5, greatest(0, extract(epoch from p_now - coalesce(l.last_contact_at, l.created_at))) / 1209600.0)),
            ('engagement', 15.0, least(1.0, noted.notes / 5.0)),
            -- Won before, from the same source; with few of those it leans on the organisation's whole record, and that on one in two.
            ('outcomes', 20.0, (outcomes.won_here + 10.0 * (outcomes.won + 5.0) / (outcomes.closed + 10.0)) / (outcomes.closed_here + 10.0))
        ) f (name, weight, value)
    )
    select round(sum(weight * value), 2),
           jsonb_object_agg(name, jsonb_build_object('weight', weight, 'value', round(value, 4), 'points', round(weight * value, 2)))
      from factor
$$;

create function public.update_lead_score(lead_id uuid) returns numeric
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_role  text := current_setting('role');
    v_org   uuid := app.current_org_id();
    v_lead  public.leads;
    v_score record;
begin
    select * into v_lead from public.leads l
     where l.org_id = v_org and l.id = lead_id
       and (v_role = 'spine_service'
            or v_role = 'spine_agent' and app.agent_may('leads:read')
            or v_role in ('authenticated', 'spine_caller') and (app.may('leads:read_all') or l.assigned_to = app.uid()));
    if not found then
        perform app.refuse('PT404', 'lead_not_found', 'There is no such lead in the organisation you work in.');
    end if;
    if not (case v_role when 'spine_service' then true when 'spine_agent' then app.agent_may('lead_scores:create') else app.may('leads:update') end) then
        perform app.refuse('PT403', 'leads_update_forbidden', 'Your role does not allow scoring leads.');
    end if;
    if v_lead.status in ('won', 'lost') then
        perform app.refuse('PT409', 'lead_closed', 'A lead that was won or lost has its outcome; it is not scored any more.');
    end if;
    select * into v_score from app.lead_score(v_org, lead_id, now());
    insert into public.lead_scoring (org_id, lead_id, score, rationale, factors, model)
    select v_org, lead_id, v_score.score,
           (select string_agg(f.key || ' ' || (f.value ->> 'points') || ' of ' || (f.value ->> 'weight'), ', '
                              order by (f.value ->> 'points')::numeric desc, f.key)
              from jsonb_each(v_score.factors) f), v_score.factors, 'rules';
    return v_score.score;
end
$$;
comment on function public.update_lead_score(uuid) is 'Computes a lead''s deterministic score, from 0 to 100, and stores it with its factors.';
grant execute on function public.update_lead_score(uuid) to authenticated, spine_agent, spine_service;

reset role;
revoke create on schema public from spine_definer;
