-- Create client intelligence, the organisation's brain, agent runs, prospects and insights, and the search among vectors.
--
-- Locks:   data_ownership exclusively, for one insert.
-- Rollout: expand. An index for one large tenant is an operator's command: ./spine vector-index.
-- Undo:    drop the five tables and the functions of this file.

grant usage on schema extensions to spine_owner, spine_definer, spine_caller, spine_agent, spine_service;

set local role spine_definer;

-- By name, as they were given: `resource:*` stands for all of a resource.
create function app.my_permissions() returns text[]
    language sql stable security definer set search_path = '' as $$
    with org as (select app.active_org_id() as id),
    held as (
        select m.role_id from public.org_members m, org where m.org_id = org.id and m.user_id = app.uid()
        union all
        select '00000000-0000-7000-8000-000000000005'::uuid from public.org_consultants c, org
         where c.org_id = org.id and c.user_id = app.uid()
        union all
        select '00000000-0000-7000-8000-000000000006'::uuid from public.client_users u, org
         where u.org_id = org.id and u.user_id = app.uid())
    select coalesce(array_agg(distinct p.resource || ':' || p.action), '{}')
      from public.permissions p join held on held.role_id = p.role_id cross join org
     where p.org_id is null or p.org_id = org.id
$$;
comment on function app.my_permissions() is 'What the person may do in their active organisation, as their roles say it.';
grant execute on function app.my_permissions(), app.current_org_id() to authenticated;

reset role;
set local role spine_owner;

create table public.client_intelligence (
    -- What the audit log names it by: a name is personal.
    id             uuid        not null default app.uuidv7(),
    org_id         uuid        not null references public.organizations (id) on delete cascade,
    client_name    text        not null,
    psychographics jsonb       not null default '{}',
    deal_history   jsonb[]     not null default '{}',
    embedding      extensions.vector(1536) storage plain,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    primary key (org_id, client_name),
    constraint client_intelligence_id_key unique (id),
    constraint client_intelligence_client_name_check check (length(client_name) between 1 and 200),
    constraint client_intelligence_size_check check (pg_column_size(psychographics) <= 262144 and cardinality(deal_history) <= 1000)
);
comment on table public.client_intelligence is 'What agents have learned of a client.';

create table public.org_brain (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    content_type text        not null,
    content_text text        not null,
    -- In the row: exact search reads each of them, out of line it takes twice as long, and the planner does not know it.
    embedding    extensions.vector(1536) storage plain,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    constraint org_brain_content_type_check check (content_type ~ '^[a-z_]{1,60}$'),
    constraint org_brain_content_text_check check (length(content_text) between 1 and 100000)
);
comment on table public.org_brain is 'What the organisation knows, in pieces that can be found by meaning.';
create index org_brain_org_id_created_at_idx on public.org_brain (org_id, created_at desc);

create table public.agent_runs (
    id                   uuid        primary key default app.uuidv7(),
    org_id               uuid        not null references public.organizations (id) on delete cascade,
    agent_id             uuid,
    proposal_id          uuid,
    status               text        not null default 'queued',
    current_step         text,
    cached_writer_output jsonb,
    resume_from          text,
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now(),
    constraint agent_runs_status_check check (status in ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
    constraint agent_runs_size_check
        check (pg_column_size(cached_writer_output) <= 1048576 and length(current_step) <= 200 and length(resume_from) <= 200),
    constraint agent_runs_org_id_agent_id_fkey
        foreign key (org_id, agent_id) references public.agents (org_id, id) on delete set null (agent_id),
    constraint agent_runs_org_id_proposal_id_fkey
        foreign key (org_id, proposal_id) references public.proposals (org_id, id) on delete cascade
);
comment on table public.agent_runs is 'An agent''s work in steps, and where to take it up again.';
create index agent_runs_org_id_created_at_idx on public.agent_runs (org_id, created_at desc);
create index agent_runs_org_id_agent_id_idx on public.agent_runs (org_id, agent_id);
create index agent_runs_org_id_proposal_id_idx on public.agent_runs (org_id, proposal_id);

create table public.prospect_intelligence (
    id            uuid        not null default app.uuidv7(),
    org_id        uuid        not null references public.organizations (id) on delete cascade,
    prospect_name text        not null,
    website_url   text,
    profile       jsonb       not null default '{}',
    cached_at     timestamptz not null default now(),
    primary key (org_id, prospect_name),
    constraint prospect_intelligence_id_key unique (id),
    constraint prospect_intelligence_prospect_name_check check (length(prospect_name) between 1 and 200),
    constraint prospect_intelligence_website_url_check check (website_url ~ '^https?://' and length(website_url) <= 2000),
    constraint prospect_intelligence_profile_check check (pg_column_size(profile) <= 262144)
);
comment on table public.prospect_intelligence is 'What agents have found out about somebody who is no client yet.';

create table public.ai_insights (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null references public.organizations (id) on delete cascade,
    table_name   text        not null,
    period_start timestamptz not null,
    period       text        not null,
    audience     text        not null default 'insights:read_all',
    summary      text        not null,
    figures      jsonb       not null,
    served_by    text        not null,
    created_at   timestamptz not null default now(),
    constraint ai_insights_table_name_check check (table_name ~ '^[a-z_]{1,60}$'),
    constraint ai_insights_period_check check (period in ('day', 'week', 'month', 'quarter')),
    constraint ai_insights_audience_check check (audience ~ '^[a-z_]+:[a-z_]+$'),
    constraint ai_insights_served_by_check
        check (served_by in ('model', 'cache', 'stale_cache', 'cheaper_model', 'default_template')),
    constraint ai_insights_size_check check (length(summary) <= 20000 and pg_column_size(figures) <= 1048576)
);
comment on table public.ai_insights is 'A summary of one table''s trends over a period, with the figures it rests on.';
comment on column public.ai_insights.audience is 'The permission one must have to read it: figures know no policies, so each says for whom it was made.';
create index ai_insights_org_id_created_at_idx on public.ai_insights (org_id, created_at desc);

do $$
declare
    made     text;
    resource text;
begin
    foreach made in array array['client_intelligence', 'org_brain', 'agent_runs', 'prospect_intelligence', 'ai_insights'] loop
        resource := case made when 'agent_runs' then 'runs' when 'ai_insights' then 'insights' else 'intelligence' end;
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('create policy %I on public.%I for insert to spine_service with check (org_id = (select app.service_org()))',
                       made || '_service_insert', made);
        execute format('create policy %I on public.%I for select to spine_agent using (org_id = (select app.agent_org_id()) and (select app.agent_may(%L)))',
                       made || '_agent_select', made, resource || ':read');
        execute format('create policy %I on public.%I for insert to spine_agent with check (org_id = (select app.agent_org_id()) and (select app.agent_may(%L)))',
                       made || '_agent_insert', made, resource || ':create');
        execute format('grant select on public.%I to spine_service, spine_agent, authenticated', made);
    end loop;
    foreach made in array array['client_intelligence', 'org_brain', 'agent_runs', 'prospect_intelligence'] loop
        resource := case made when 'agent_runs' then 'runs' else 'intelligence' end;
        execute format('create policy %I on public.%I for select to authenticated using (org_id = (select app.active_org_id()) and (select app.may(%L)))',
                       made || '_select', made, resource || ':read');
        execute format('create policy %I on public.%I for update to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_update', made);
        execute format('create policy %I on public.%I for update to spine_agent using (org_id = (select app.agent_org_id()) and (select app.agent_may(%L)))',
                       made || '_agent_update', made, resource || ':update');
    end loop;
end
$$;
-- What was made for a permission is read by whoever has it. Asked by row, since each row names its own.
create policy ai_insights_select on public.ai_insights for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('insights:read_all')) then true
                    else array[audience, split_part(audience, ':', 1) || ':*'] && (select app.my_permissions()) end);

-- A run is made in one's own name.
alter policy agent_runs_agent_insert on public.agent_runs
    with check (org_id = (select app.agent_org_id()) and (select app.agent_may('runs:create')) and agent_id = (select app.agent_id()));

-- When something was said is not the sayer's to choose.
grant insert (org_id, client_name, psychographics, deal_history, embedding) on public.client_intelligence to spine_service, spine_agent;
grant insert (id, org_id, content_type, content_text, embedding) on public.org_brain to spine_service, spine_agent;
grant insert (id, org_id, agent_id, proposal_id, status, current_step, cached_writer_output, resume_from)
    on public.agent_runs to spine_service, spine_agent;
grant insert (org_id, prospect_name, website_url, profile) on public.prospect_intelligence to spine_service, spine_agent;
grant insert (id, org_id, table_name, period_start, period, audience, summary, figures, served_by)
    on public.ai_insights to spine_service, spine_agent;
grant update (psychographics, deal_history, embedding) on public.client_intelligence to spine_service, spine_agent;
grant update (content_type, content_text, embedding) on public.org_brain to spine_service, spine_agent;
grant update (status, current_step, cached_writer_output, resume_from) on public.agent_runs to spine_service, spine_agent;
grant update (website_url, profile, cached_at) on public.prospect_intelligence to spine_service, spine_agent;

call app.audit_table('client_intelligence', 'id');
call app.audit_table('org_brain', 'id', 'content_type');
call app.audit_table('agent_runs', 'id', 'agent_id,proposal_id,status');
call app.audit_table('prospect_intelligence', 'id');
call app.audit_table('ai_insights', 'id', 'table_name,period,period_start,audience,served_by');
create trigger client_intelligence_touch before update on public.client_intelligence for each row execute function app.touch_updated_at();
create trigger org_brain_touch before update on public.org_brain for each row execute function app.touch_updated_at();
create trigger agent_runs_touch before update on public.agent_runs for each row execute function app.touch_updated_at();

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, owner) values
    ('client_intelligence', 'agent'), ('org_brain', 'agent'), ('agent_runs', 'agent'), ('prospect_intelligence', 'agent'),
    ('ai_insights', 'agent');
alter table public.data_ownership force row level security;

-- Search among vectors ---------------------------------------------------------------------------------------------------

-- Exact within the organisation. The organisation stands in the statement as a literal, since an index made for one large tenant
-- is chosen only where the planner can see that it is that tenant. Such an index holds nobody else's rows, so a hundred candidates
-- are enough for the hundred answers there can be; the setting ends with the function. Runs as whoever asks, under their policies.
create function app.nearest_in_brain(p_org uuid, p_query extensions.vector, p_most integer)
    returns table (id uuid, content_type text, content_text text, distance double precision)
    language plpgsql stable set search_path = '' as $$
begin
    if p_query is null or extensions.vector_dims(p_query) <> 1536 then
        raise exception using errcode = 'PT422', message = 'query_invalid', detail = 'A query is a vector of 1,536 dimensions.';
    end if;
    perform set_config('hnsw.ef_search', '100', true);
    return query execute format(
        'select b.id, b.content_type, b.content_text, (b.embedding operator(extensions.<=>) $1)::double precision
           from public.org_brain b
          where b.org_id = %L and b.embedding is not null
          order by b.embedding operator(extensions.<=>) $1 limit $2', p_org)
        using p_query, least(greatest(coalesce(p_most, 10), 1), 100);
end
$$;
create function app.nearest_clients(p_org uuid, p_query extensions.vector, p_most integer)
    returns table (client_name text, psychographics jsonb, distance double precision)
    language plpgsql stable set search_path = '' as $$
begin
    if p_query is null or extensions.vector_dims(p_query) <> 1536 then
        raise exception using errcode = 'PT422', message = 'query_invalid', detail = 'A query is a vector of 1,536 dimensions.';
    end if;
    perform set_config('hnsw.ef_search', '100', true);
    return query execute format(
        'select i.client_name, i.psychographics, (i.embedding operator(extensions.<=>) $1)::double precision
           from public.client_intelligence i
          where i.org_id = %L and i.embedding is not null
          order by i.embedding operator(extensions.<=>) $1 limit $2', p_org)
        using p_query, least(greatest(coalesce(p_most, 10), 1), 100);
end
$$;

grant execute on function app.nearest_in_brain(uuid, extensions.vector, integer), app.nearest_clients(uuid, extensions.vector, integer)
    to authenticated, spine_agent, spine_service;

-- Bodies bound when they are made: who calls them through the Data API has no way into schema app.
create function public.search_org_brain(query extensions.vector, most integer default 10)
    returns table (id uuid, content_type text, content_text text, distance double precision)
    language sql stable
begin atomic
    select n.id, n.content_type, n.content_text, n.distance from app.nearest_in_brain(app.current_org_id(), query, most) n;
end;
comment on function public.search_org_brain(extensions.vector, integer) is
    'The pieces of the organisation''s brain nearest to a vector of 1,536 dimensions, by cosine distance; at most a hundred.';
create function public.search_clients(query extensions.vector, most integer default 10)
    returns table (client_name text, psychographics jsonb, distance double precision)
    language sql stable
begin atomic
    select n.client_name, n.psychographics, n.distance from app.nearest_clients(app.current_org_id(), query, most) n;
end;
comment on function public.search_clients(extensions.vector, integer) is
    'What is known of the clients nearest to a vector of 1,536 dimensions, by cosine distance; at most a hundred.';
grant execute on function public.search_org_brain(extensions.vector, integer), public.search_clients(extensions.vector, integer)
    to authenticated, spine_agent, spine_service;

reset role;
