-- Add the rules by which projects are archived and renders are counted.
--
-- Locks:   render_counters, project_images and project_tags for the moment that making a policy takes; projects against writes while an
--          index of it is built; organizations, profiles, roles, clients, agents, agent_tokens, projects, agent_limits, prompt_templates
--          and audit_log for that of adding a check that is not valid, which reads none of their rows.
-- Rollout: expand.
-- Undo:    drop the two functions, the policies and the checks of this file; the index may stay.

set local role spine_owner;

create policy projects_definer_select on public.projects for select to spine_definer using (true);
create policy projects_definer_update on public.projects for update to spine_definer using (true);
grant select on public.projects to spine_definer;
grant update (archived_at) on public.projects to spine_definer;
create policy render_counters_definer_select on public.render_counters for select to spine_definer using (true);
create policy render_counters_definer_insert on public.render_counters for insert to spine_definer with check (true);
create policy render_counters_definer_update on public.render_counters for update to spine_definer using (true);
grant select, insert on public.render_counters to spine_definer;
grant update (renders) on public.render_counters to spine_definer;

-- A client's projects, newest first.
create index projects_org_id_client_id_created_at_idx on public.projects (org_id, client_id, created_at desc);
drop index public.projects_org_id_client_id_idx;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- Done, not shown in the portfolio, nothing being rendered, untouched for thirty days: then it goes to the archive.
create function public.archive_old_projects(project_id uuid) returns table (archived boolean, reason text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_role text := current_setting('role');
    v_org  uuid := app.current_org_id();
    p      public.projects;
begin
    select * into p from public.projects x
     where x.org_id = v_org and x.id = archive_old_projects.project_id
       and (v_role = 'spine_service' or app.may('projects:read')) for no key update;
    if not found then
        perform app.refuse('PT404', 'project_not_found', 'There is no such project in the organisation you work in.');
    end if;
    if v_role <> 'spine_service' and not app.may('projects:update') then
        perform app.refuse('PT403', 'projects_update_forbidden', 'Your role in this organisation does not allow projects:update.');
    end if;
    archived := false;
    reason := case
        when p.archived_at is not null then 'already_archived'
        when p.status <> 'done' then 'not_done'
        when p.published_at is not null and p.approved_by is not null then 'in_portfolio'
        when exists (select from public.render_requests r
                      where r.org_id = v_org and r.project_id = p.id and r.status in ('queued', 'running')) then 'renders_open'
        when p.updated_at > now() - interval '30 days' then 'recently_changed'
        when exists (select from public.render_requests r
                      where r.org_id = v_org and r.project_id = p.id and r.created_at > now() - interval '30 days') then 'recently_rendered'
    end;
    if reason is null then
        update public.projects x set archived_at = now() where x.id = p.id;
        archived := true;
        reason := 'archived';
    end if;
    return next;
end
$$;
comment on function public.archive_old_projects(uuid) is
    'Archives a project if the rule allows it; the reason says which part of the rule does not. Archiving twice changes nothing.';
grant execute on function public.archive_old_projects(uuid) to authenticated, spine_service;

-- Counts one finished render of this month, unless the person's or agent's monthly limit is reached: limit and count in one statement.
create function public.increment_render_counter(user_id uuid) returns bigint
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_role    text := current_setting('role');
    v_org     uuid := app.current_org_id();
    v_actor   uuid := increment_render_counter.user_id;
    v_renders bigint;
begin
    if v_role <> 'spine_service' and v_actor is distinct from (case when v_role = 'spine_agent' then app.agent_id() else app.uid() end) then
        perform app.refuse('PT403', 'user_id_not_own', 'Renders are counted in one''s own name only.');
    end if;
    if v_org is null or not (app.belongs(v_actor, v_org)
                             or exists (select from public.agents a where a.org_id = v_org and a.id = v_actor)) then
        perform app.refuse('PT404', 'user_not_found', 'There is no such person or agent in this organisation.');
    end if;
    insert into public.render_counters as c (org_id, actor_id, period_start, renders)
    select v_org, v_actor, date_trunc('month', now(), 'UTC')::date, 1
      from (select (select l.max_requests from public.agent_limits l
                     where l.org_id = v_org and l.agent = 'renderer' and l.scope = 'user' and l.period = 'month'
                       and (l.scope_id = v_actor or l.scope_id is null)
                     order by l.scope_id nulls last limit 1) as most) allowed
     where coalesce(allowed.most, 1) >= 1
    on conflict (org_id, actor_id, period_start) do update set renders = c.renders + 1
     where c.renders < coalesce((select l.max_requests from public.agent_limits l
                                  where l.org_id = v_org and l.agent = 'renderer' and l.scope = 'user' and l.period = 'month'
                                    and (l.scope_id = v_actor or l.scope_id is null)
                                  order by l.scope_id nulls last limit 1), c.renders + 1)
    returning c.renders into v_renders;
    if v_renders is null then
        perform app.refuse('PT429', 'render_limit_reached', 'The renders of this month are used up.');
    end if;
    return v_renders;
end
$$;
comment on function public.increment_render_counter(uuid) is
    'Counts a render of this calendar month (UTC) and returns how many there are; refuses once the monthly limit is reached.';
grant execute on function public.increment_render_counter(uuid) to spine_caller, spine_agent, spine_service;

reset role;
revoke create on schema public from spine_definer;

-- Where a project is, for servers that know geography.
do $$
begin
    if exists (select from pg_catalog.pg_available_extensions where name = 'postgis') then
        create extension if not exists postgis with schema extensions;
        set local role spine_owner;
        alter table public.projects add column site extensions.geography(point, 4326);
        grant insert (site), update (site) on public.projects to authenticated;
        reset role;
    else
        raise notice 'this server offers no PostGIS: projects have no site';
    end if;
end
$$;

-- What is shown to the public is shown by whoever may approve it, its pictures and tags included.
set local role spine_owner;
do $$
declare
    shown text;
begin
    foreach shown in array array['project_images', 'project_tags'] loop
        execute format('alter policy %1$I on public.%2$I with check (org_id = (select app.active_org_id()) and (select app.may(''projects:update''))
                            and exists (select from public.projects p where p.org_id = %2$I.org_id and p.id = %2$I.project_id
                                           and (p.approved_by is null or (select app.may(''projects:approve'')))))',
                       shown || '_insert', shown);
    end loop;
end
$$;

-- Every input has an end. Not checked of what is there.
alter table public.organizations add constraint organizations_branding_check check (pg_column_size(branding) <= 65536) not valid;
alter table public.profiles add constraint profiles_contact_check check (length(email) <= 320 and length(phone) <= 50) not valid;
alter table public.roles add constraint roles_description_check check (length(description) <= 2000) not valid;
alter table public.clients add constraint clients_contact_check check (greatest(length(email), length(phone), length(address)) <= 500) not valid;
alter table public.agents add constraint agents_kind_check check (length(kind) <= 60) not valid;
alter table public.agent_tokens add constraint agent_tokens_scopes_check check (pg_column_size(scopes) <= 8000) not valid;
alter table public.projects add constraint projects_text_check check (length(description) <= 20000 and length(category) <= 100) not valid;
alter table public.agent_limits add constraint agent_limits_agent_check check (length(agent) <= 60) not valid;
alter table public.prompt_templates add constraint prompt_templates_name_check check (length(purpose) <= 60 and length(locale) <= 20) not valid;
alter table public.audit_log add constraint audit_log_values_check
    check (coalesce(pg_column_size(old_values), 0) + coalesce(pg_column_size(new_values), 0) <= 131072) not valid;
reset role;
