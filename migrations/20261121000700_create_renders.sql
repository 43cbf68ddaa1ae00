-- Create render requests, their parameters and results, the render counter, and the doors through which work is admitted.
--
-- Locks:   none on existing tables.
-- Rollout: expand.
-- Undo:    drop the four tables and the functions of this file.

set local role spine_owner;

create table public.render_requests (
    id              uuid        primary key default app.uuidv7(),
    org_id          uuid        not null references public.organizations (id) on delete cascade,
    user_id         uuid        references public.profiles (id) on delete set null,
    agent_id        uuid,
    project_id      uuid        not null,
    parent_id       uuid,
    job_id          uuid        not null,
    input_file_path text        not null,
    model           text        not null,
    variants        smallint    not null default 1,
    status          text        not null default 'queued',
    error           jsonb,
    created_at      timestamptz not null default now(),
    updated_at      timestamptz not null default now(),
    completed_at    timestamptz,

    constraint render_requests_org_id_id_key unique (org_id, id),
    constraint render_requests_variants_check check (variants between 1 and 4),
    constraint render_requests_status_check check (status in ('queued', 'running', 'completed', 'failed', 'cancelled')),
    constraint render_requests_input_file_path_check check (split_part(input_file_path, '/', 2) = org_id::text),
    constraint render_requests_org_id_project_id_fkey
        foreign key (org_id, project_id) references public.projects (org_id, id) on delete cascade,
    constraint render_requests_org_id_parent_id_fkey
        foreign key (org_id, parent_id) references public.render_requests (org_id, id) on delete set null (parent_id),
    constraint render_requests_org_id_agent_id_fkey
        foreign key (org_id, agent_id) references public.agents (org_id, id) on delete set null (agent_id),
    constraint render_requests_org_id_job_id_fkey
        foreign key (org_id, job_id) references public.jobs (org_id, id) deferrable initially deferred
);
comment on table public.render_requests is 'A room to be rendered: which photo, for which project, by which model.';
comment on column public.render_requests.input_file_path is 'bucket/path of the photo, or of the parent''s result.';
create index render_requests_org_id_created_at_idx on public.render_requests (org_id, created_at desc);
create index render_requests_org_id_user_id_idx on public.render_requests (org_id, user_id, created_at desc);
create index render_requests_org_id_project_id_idx on public.render_requests (org_id, project_id);
create index render_requests_org_id_parent_id_idx on public.render_requests (org_id, parent_id);
create index render_requests_org_id_agent_id_idx on public.render_requests (org_id, agent_id);
create index render_requests_org_id_job_id_idx on public.render_requests (org_id, job_id);
create index render_requests_user_id_idx on public.render_requests (user_id);

create table public.render_parameters (
    id          uuid primary key default app.uuidv7(),
    org_id      uuid not null,
    request_id  uuid not null,
    style       text,
    furnishings text,
    lighting    text,
    walls       text,
    flooring    text,
    exterior    text,
    constraint render_parameters_request_id_key unique (request_id),
    constraint render_parameters_length_check check (
        greatest(length(style), length(furnishings), length(lighting), length(walls), length(flooring), length(exterior)) <= 500),
    constraint render_parameters_org_id_request_id_fkey
        foreign key (org_id, request_id) references public.render_requests (org_id, id) on delete cascade
);
comment on table public.render_parameters is 'What was wished for.';
create index render_parameters_org_id_request_id_idx on public.render_parameters (org_id, request_id);

create table public.render_results (
    id               uuid        primary key default app.uuidv7(),
    org_id           uuid        not null,
    request_id       uuid        not null,
    variant          smallint    not null,
    output_file_path text        not null,
    mime             text        not null,
    width            integer     not null,
    height           integer     not null,
    bytes            bigint      not null,
    cost_tokens      bigint      not null,
    cost_micro_usd   bigint      not null,
    model_used       text        not null,
    served_by        text        not null,
    created_at       timestamptz not null default now(),
    -- One result for each variant asked for, however often its work was retried.
    constraint render_results_request_id_variant_key unique (request_id, variant),
    constraint render_results_served_by_check check (served_by in ('model', 'cache', 'stale_cache', 'cheaper_model', 'default_template')),
    constraint render_results_org_id_request_id_fkey
        foreign key (org_id, request_id) references public.render_requests (org_id, id) on delete cascade
);
comment on table public.render_results is 'A finished picture, what it cost and how it was served.';
create index render_results_org_id_request_id_idx on public.render_results (org_id, request_id, variant);

create table public.render_counters (
    org_id       uuid   not null references public.organizations (id) on delete cascade,
    actor_id     uuid   not null,
    period_start date   not null,
    renders      bigint not null default 0,
    primary key (org_id, actor_id, period_start)
);
comment on table public.render_counters is 'Finished renders of a person or agent in a calendar month (UTC).';

do $$
declare
    made text;
begin
    foreach made in array array['render_requests', 'render_parameters', 'render_results', 'render_counters'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
    end loop;
end
$$;

-- People see their own; designers and admins all of the organisation, for review.
create policy render_requests_select on public.render_requests for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('renders:read_all')) then true else user_id = (select app.uid()) end);
create policy render_requests_agent_select on public.render_requests for select to spine_agent
    using (org_id = (select app.agent_org_id())
           and case when (select app.agent_may('renders:read_all')) then true else agent_id = (select app.agent_id()) end);
-- A request spends money, so it is made by a function: never through the Data API. The sub-select runs under the policies of
-- projects, so nobody renders for a project they cannot see.
create policy render_requests_caller_insert on public.render_requests for insert to spine_caller
    with check (org_id = (select app.active_org_id()) and user_id = (select app.uid()) and agent_id is null and status = 'queued'
                and (select app.may('renders:create'))
                and exists (select from public.projects p where p.org_id = render_requests.org_id and p.id = render_requests.project_id));
create policy render_requests_agent_insert on public.render_requests for insert to spine_agent
    with check (org_id = (select app.agent_org_id()) and agent_id = (select app.agent_id()) and user_id is null and status = 'queued'
                and (select app.agent_may('renders:create'))
                and exists (select from public.projects p where p.org_id = render_requests.org_id and p.id = render_requests.project_id));
create policy render_requests_service_select on public.render_requests for select to spine_service
    using (org_id = (select app.service_org()));
create policy render_requests_service_update on public.render_requests for update to spine_service
    using (org_id = (select app.service_org())) with check (org_id = (select app.service_org()));
create policy render_requests_definer_select on public.render_requests for select to spine_definer using (true);
create policy render_requests_definer_update on public.render_requests for update to spine_definer using (true) with check (true);
grant select on public.render_requests to authenticated, spine_agent, spine_service, spine_definer;
grant insert on public.render_requests to spine_caller, spine_agent;
grant update (status, error, completed_at) on public.render_requests to spine_service, spine_definer;

create policy render_parameters_select on public.render_parameters for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.render_requests r where r.org_id = render_parameters.org_id and r.id = render_parameters.request_id));
create policy render_parameters_agent_select on public.render_parameters for select to spine_agent
    using (org_id = (select app.agent_org_id())
           and exists (select from public.render_requests r where r.org_id = render_parameters.org_id and r.id = render_parameters.request_id));
create policy render_parameters_caller_insert on public.render_parameters for insert to spine_caller
    with check (org_id = (select app.active_org_id())
                and exists (select from public.render_requests r
                             where r.org_id = render_parameters.org_id and r.id = render_parameters.request_id
                               and r.user_id = (select app.uid())));
create policy render_parameters_agent_insert on public.render_parameters for insert to spine_agent
    with check (org_id = (select app.agent_org_id())
                and exists (select from public.render_requests r
                             where r.org_id = render_parameters.org_id and r.id = render_parameters.request_id
                               and r.agent_id = (select app.agent_id())));
create policy render_parameters_service_select on public.render_parameters for select to spine_service
    using (org_id = (select app.service_org()));
grant select on public.render_parameters to authenticated, spine_agent, spine_service;
grant insert on public.render_parameters to spine_caller, spine_agent;

create policy render_results_select on public.render_results for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.render_requests r where r.org_id = render_results.org_id and r.id = render_results.request_id));
create policy render_results_agent_select on public.render_results for select to spine_agent
    using (org_id = (select app.agent_org_id())
           and exists (select from public.render_requests r where r.org_id = render_results.org_id and r.id = render_results.request_id));
create policy render_results_service_select on public.render_results for select to spine_service
    using (org_id = (select app.service_org()));
create policy render_results_service_insert on public.render_results for insert to spine_service
    with check (org_id = (select app.service_org()));
grant select on public.render_results to authenticated, spine_agent, spine_service;
grant insert on public.render_results to spine_service;

create policy render_counters_select on public.render_counters for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('limits:read')) then true else actor_id = (select app.uid()) end);
create policy render_counters_service_select on public.render_counters for select to spine_service
    using (org_id = (select app.service_org()));
create policy render_counters_service_insert on public.render_counters for insert to spine_service
    with check (org_id = (select app.service_org()));
create policy render_counters_service_update on public.render_counters for update to spine_service
    using (org_id = (select app.service_org())) with check (org_id = (select app.service_org()));
grant select on public.render_counters to authenticated, spine_service;
grant insert, update on public.render_counters to spine_service;

create trigger render_requests_touch before update on public.render_requests
    for each row execute function app.touch_updated_at();

reset role;
set local role spine_definer;

-- Admits the job of a render request that the caller has made in this transaction.
create function app.admit_render_job(p_job uuid, p_request uuid, p_max_attempts integer) returns void
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_role  text := current_setting('role');
    v_org   uuid := app.current_org_id();
    v_actor uuid := case when v_role = 'spine_agent' then app.agent_id() else app.uid() end;
begin
    if v_role not in ('spine_caller', 'spine_agent') or v_org is null or v_actor is null
       or not exists (select from public.render_requests r
                       where r.org_id = v_org and r.id = p_request and r.job_id = p_job
                         and coalesce(r.user_id, r.agent_id) = v_actor) then
        raise exception 'no such render request' using errcode = 'insufficient_privilege';
    end if;
    insert into public.jobs (id, org_id, job_type, payload, unique_key, created_by, max_attempts)
    values (p_job, v_org, 'render', jsonb_build_object('request_id', p_request), p_request::text, v_actor,
            least(greatest(p_max_attempts, 1), 10));
end
$$;

-- Makes a queued job wait, or lets it run now. For whoever admitted it, before it has run.
create function app.postpone_job(p_job uuid, p_run_after timestamptz, p_wait jsonb) returns void
    language plpgsql volatile security definer set search_path = '' as $$
begin
    update public.jobs j set run_after = p_run_after, wait_reason = p_wait
     where j.id = p_job and j.org_id = app.current_org_id() and j.status = 'queued'
       and (current_setting('role') = 'spine_service'
            or (current_setting('role') = 'spine_caller' and app.may('renders:read_all'))
            or j.created_by = case when current_setting('role') = 'spine_agent' then app.agent_id() else app.uid() end);
end
$$;

-- Queues a job of the organisation again that has failed or was cancelled. The status it had; null if there is no such job.
create function app.requeue_render(p_request uuid) returns text
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_role  text := current_setting('role');
    v_org   uuid := app.current_org_id();
    v_actor uuid := case when v_role = 'spine_agent' then app.agent_id() else app.uid() end;
    j       public.jobs;
begin
    -- Their own, or any if they may review all.
    select x.* into j from public.jobs x join public.render_requests r on r.org_id = x.org_id and r.job_id = x.id
     where r.org_id = v_org and r.id = p_request
       and case when v_role = 'spine_agent' then app.agent_may('renders:create') else app.may('renders:create') end
       and (coalesce(r.user_id, r.agent_id) = v_actor
            or case when v_role = 'spine_agent' then app.agent_may('renders:read_all') else app.may('renders:read_all') end)
       for update of x;
    if not found then
        return null;
    end if;
    if j.status in ('failed', 'cancelled') then
        update public.jobs set status = 'queued', attempts = 0, run_after = now(), wait_reason = null, last_error = null,
                               cancel_requested_at = null, finished_at = null
         where id = j.id;
        update public.render_requests set status = 'queued', error = null, completed_at = null
         where org_id = v_org and id = p_request;
    end if;
    return j.status;
end
$$;

-- Cancels a job: at once while it waits, at its next step while it runs. The status it has now.
-- Callers check first that the person may see the job; this checks that they may cancel it.
create function app.cancel_job(p_job uuid) returns text
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_role  text := current_setting('role');
    v_org   uuid := app.current_org_id();
    v_actor uuid := case when v_role = 'spine_agent' then app.agent_id() else app.uid() end;
    j       public.jobs;
begin
    select * into j from public.jobs x
     where x.org_id = v_org and x.id = p_job
       and (x.created_by = v_actor or (v_role = 'spine_caller' and app.may('jobs:cancel'))) for update;
    if not found then
        return null;
    end if;
    if j.status = 'queued' then
        update public.jobs set status = 'cancelled', finished_at = now(), cancel_requested_at = now(), wait_reason = null where id = j.id;
        update public.render_requests set status = 'cancelled', completed_at = now()
         where org_id = v_org and job_id = j.id and status in ('queued', 'running');
        perform app.refund_job(j.id);
        return 'cancelled';
    end if;
    if j.status = 'running' and j.cancel_requested_at is null then
        update public.jobs set cancel_requested_at = now() where id = j.id;
    end if;
    return j.status;
end
$$;

grant execute on function app.admit_render_job(uuid, uuid, integer), app.postpone_job(uuid, timestamptz, jsonb),
    app.requeue_render(uuid), app.cancel_job(uuid) to spine_caller, spine_agent;
grant execute on function app.postpone_job(uuid, timestamptz, jsonb) to spine_service;

reset role;
set local role spine_owner;

-- Under forced row-level security not even the owner writes a table: lifted for this one statement.
alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('organizations', null, 'human'), ('organizations', 'plan', 'system'), ('organizations', 'stripe_customer_id', 'system'),
    ('profiles', null, 'human'), ('roles', null, 'human'), ('permissions', null, 'human'), ('org_members', null, 'human'),
    ('org_consultants', null, 'human'), ('clients', null, 'human'), ('client_consultants', null, 'human'),
    ('client_users', null, 'human'), ('user_sessions', null, 'system'), ('active_contexts', null, 'human'),
    ('agents', null, 'human'), ('agent_tokens', null, 'human'), ('data_ownership', null, 'system'),
    ('projects', null, 'human'), ('project_images', null, 'human'), ('project_tags', null, 'human'), ('assets', null, 'agent'),
    ('render_requests', null, 'human'), ('render_parameters', null, 'human'), ('render_results', null, 'agent'),
    ('render_counters', null, 'system'), ('agent_limits', null, 'human'), ('agent_usage', null, 'system'),
    ('usage_reservations', null, 'system'), ('provider_calls', null, 'system'), ('model_prices', null, 'system'),
    ('ai_cache', null, 'agent'), ('prompt_templates', null, 'human'), ('jobs', null, 'system'), ('outbox', null, 'system'),
    ('idempotency_keys', null, 'system'), ('system_settings', null, 'system'), ('subject_keys', null, 'system'),
    ('audit_log', null, 'system'), ('error_logs', null, 'system'), ('billing_events', null, 'system');
alter table public.data_ownership force row level security;

reset role;
