-- Create invitations, personas and deploys, and the functions by which people join, choose where they work, and make organisations.
--
-- Locks:   data_ownership, roles and permissions exclusively, for one insert each; profiles, active_contexts, user_sessions, organizations,
--          org_members, org_consultants, clients, client_consultants and client_users for the moment that making a policy takes.
-- Rollout: expand. On Supabase, name app.custom_access_token_hook as the project's access-token hook afterwards.
-- Undo:    drop the three tables and the functions and policies of this file.

set local role spine_owner;

-- What the built-in roles may do with what the next migrations make ------------------------------------------------------

alter table public.roles no force row level security;
update public.roles set description = 'Acts for the organisation: renders, scores and assigns leads, reads messages, writes insights'
 where id = '00000000-0000-7000-8000-000000000007';
alter table public.roles force row level security;

alter table public.permissions no force row level security;
insert into public.permissions (role_id, resource, action)
select ('00000000-0000-7000-8000-00000000000' || p.role)::uuid, p.resource, p.action
  from (values
    (3, 'templates', '*'), (3, 'blog', '*'), (3, 'media', 'read'), (3, 'media', 'create'),
    (4, 'media', 'read'), (4, 'media', 'create'),
    (5, 'templates', 'read'), (5, 'templates', 'create'), (5, 'templates', 'update'),
    (5, 'submissions', 'create'), (5, 'submissions', 'update'), (5, 'submissions', 'review'),
    (6, 'submissions', 'create'), (6, 'submissions', 'update'),
    (7, 'leads', 'read'), (7, 'leads', 'assign'), (7, 'lead_scores', 'create'), (7, 'social', 'read'), (7, 'social', 'analyse'),
    (7, 'insights', 'read'), (7, 'insights', 'create'), (7, 'intelligence', 'read'), (7, 'intelligence', 'create'),
    (7, 'intelligence', 'update'), (7, 'runs', 'read'), (7, 'runs', 'create'), (7, 'runs', 'update'), (7, 'content', 'read'))
    as p (role, resource, action);
alter table public.permissions force row level security;

-- Tables -------------------------------------------------------------------------------------------------------------------

create table public.invitations (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    kind        text        not null,
    email       text        not null,
    role_id     uuid        references public.roles (id) on delete cascade,
    role        text,
    client_id   uuid,
    token_hash  bytea       not null,
    invited_by  uuid        references public.profiles (id) on delete set null,
    expires_at  timestamptz not null default now() + interval '14 days',
    accepted_at timestamptz,
    accepted_by uuid        references public.profiles (id) on delete set null,
    created_at  timestamptz not null default now(),

    constraint invitations_token_hash_key unique (token_hash),
    constraint invitations_kind_check check (kind in ('member', 'consultant', 'client_user')),
    constraint invitations_email_check check (length(email) between 3 and 320 and position('@' in email) > 1),
    constraint invitations_shape_check check (
        (kind = 'member') = (role_id is not null) and (kind = 'client_user') = (client_id is not null)
        and case kind when 'member' then role is null
                      when 'consultant' then role in ('consultant', 'manager')
                      else role in ('member', 'admin') end),
    constraint invitations_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.invitations is 'Who was asked to join, as what. People join by accepting; nobody is added by id.';
comment on column public.invitations.token_hash is 'SHA-256 of what was sent to the address.';
create index invitations_org_id_created_at_idx on public.invitations (org_id, created_at desc);
create index invitations_org_id_client_id_idx on public.invitations (org_id, client_id);
create index invitations_role_id_idx on public.invitations (role_id);
create index invitations_invited_by_idx on public.invitations (invited_by);
create index invitations_accepted_by_idx on public.invitations (accepted_by);

create table public.personas (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    agent_id    uuid,
    name        text        not null,
    description text        not null default '',
    traits      jsonb       not null default '{}',
    status      text        not null default 'active',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),

    constraint personas_org_id_name_key unique (org_id, name),
    constraint personas_name_check check (length(name) between 1 and 100 and length(description) <= 20000),
    constraint personas_status_check check (status in ('active', 'archived')),
    constraint personas_traits_check check (pg_column_size(traits) <= 65536),
    constraint personas_org_id_agent_id_fkey
        foreign key (org_id, agent_id) references public.agents (org_id, id) on delete set null (agent_id)
);
comment on table public.personas is 'The character an agent speaks in. Without an agent it is for any.';
create index personas_org_id_agent_id_idx on public.personas (org_id, agent_id);

create table public.deploys (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null references public.organizations (id) on delete cascade,
    target      text        not null,
    version     text        not null,
    status      text        not null default 'pending',
    started_at  timestamptz not null default now(),
    finished_at timestamptz,
    actor       text        not null,
    metadata    jsonb       not null default '{}',
    created_at  timestamptz not null default now(),

    constraint deploys_length_check check (greatest(length(target), length(version), length(actor)) <= 200),
    constraint deploys_status_check check (status in ('pending', 'running', 'succeeded', 'failed', 'cancelled')),
    constraint deploys_finished_check check ((finished_at is null) = (status in ('pending', 'running'))),
    constraint deploys_metadata_check check (pg_column_size(metadata) <= 65536)
);
comment on table public.deploys is 'What was brought out for an organisation, where, by what, and how it went.';
create index deploys_org_id_started_at_idx on public.deploys (org_id, started_at desc);

do $$
declare
    made text;
begin
    foreach made in array array['invitations', 'personas', 'deploys'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
    end loop;
end
$$;

-- Never the hash. An admin sees who was asked, and may take it back; both ends are functions.
create policy invitations_select on public.invitations for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('members:read')));
create policy invitations_delete on public.invitations for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('members:update')));
create policy invitations_definer_select on public.invitations for select to spine_definer using (true);
create policy invitations_definer_insert on public.invitations for insert to spine_definer with check (true);
create policy invitations_definer_update on public.invitations for update to spine_definer using (true);
grant select (id, org_id, kind, email, role_id, role, client_id, invited_by, expires_at, accepted_at, accepted_by, created_at)
    on public.invitations to authenticated;
grant delete on public.invitations to authenticated;
grant select, insert, update on public.invitations to spine_definer;

create policy personas_select on public.personas for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:read')));
create policy personas_insert on public.personas for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('agents:update')));
create policy personas_update on public.personas for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:update')));
create policy personas_delete on public.personas for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:update')));
-- Its own, and those that are for any.
create policy personas_agent_select on public.personas for select to spine_agent
    using (org_id = (select app.agent_org_id()) and coalesce(agent_id, (select app.agent_id())) = (select app.agent_id()));
create policy personas_service_select on public.personas for select to spine_service using (org_id = (select app.service_org()));
grant select, delete on public.personas to authenticated;
grant insert (id, org_id, agent_id, name, description, traits, status) on public.personas to authenticated;
grant update (agent_id, name, description, traits, status) on public.personas to authenticated;
grant select on public.personas to spine_agent, spine_service;

create policy deploys_select on public.deploys for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('deploys:read')));
create policy deploys_service_select on public.deploys for select to spine_service using (org_id = (select app.service_org()));
create policy deploys_service_insert on public.deploys for insert to spine_service with check (org_id = (select app.service_org()));
create policy deploys_service_update on public.deploys for update to spine_service using (org_id = (select app.service_org()));
grant select on public.deploys to authenticated, spine_service;
grant insert on public.deploys to spine_service;
grant update (status, finished_at, metadata) on public.deploys to spine_service;

create trigger personas_touch before update on public.personas for each row execute function app.touch_updated_at();
call app.audit_table('personas', 'id', 'agent_id,status');
call app.audit_table('invitations', 'id', 'kind,role_id,role,client_id,invited_by,accepted_at,accepted_by');

reset role;
set local role spine_definer;

-- Whoever works for an organisation sees whom they work with: asked of the chain itself, since its policies show most people none
-- but themselves.
create function app.colleague_ids() returns uuid[]
    language sql stable security definer set search_path = '' as $$
    with org as (select app.active_org_id() as id)
    select coalesce(array_agg(c.user_id), '{}')
      from (select m.user_id from public.org_members m, org where m.org_id = org.id
            union select k.user_id from public.org_consultants k, org where k.org_id = org.id
            union select u.user_id from public.client_users u, org where u.org_id = org.id and app.may('clients:read')) c
     where exists (select from public.org_members m, org where m.org_id = org.id and m.user_id = app.uid())
        or exists (select from public.org_consultants k, org where k.org_id = org.id and k.user_id = app.uid())
$$;
comment on function app.colleague_ids() is 
    'Staff and consultants of the active organisation, and its clients'' people for whoever may read clients; nobody for a client''s people.';
grant execute on function app.colleague_ids() to authenticated;

reset role;
set local role spine_owner;

-- Its Stripe customer is no agent's business. The system writes it, and the plan.
revoke select on public.organizations from spine_agent;
grant select (id, name, slug, plan, branding, created_at, updated_at) on public.organizations to spine_agent;
create policy organizations_service_update on public.organizations for update to spine_service using (id = (select app.service_org()));
grant update (plan, stripe_customer_id) on public.organizations to spine_service;

-- Who belongs to the organisation is known to the system as well.
do $$
declare
    chain text;
begin
    foreach chain in array array['org_members', 'org_consultants', 'clients', 'client_consultants', 'client_users'] loop
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       chain || '_service_select', chain);
        execute format('grant select on public.%I to spine_service', chain);
    end loop;
end
$$;

-- What the functions below do across the chain, and nothing more.
create policy organizations_definer_insert on public.organizations for insert to spine_definer with check (true);
create policy org_members_definer_insert on public.org_members for insert to spine_definer with check (true);
create policy org_consultants_definer_insert on public.org_consultants for insert to spine_definer with check (true);
-- Locking a consultant's row while they are put on a client takes the right to update it.
create policy org_consultants_definer_update on public.org_consultants for update to spine_definer using (true);
create policy clients_definer_insert on public.clients for insert to spine_definer with check (true);
create policy client_consultants_definer_insert on public.client_consultants for insert to spine_definer with check (true);
create policy client_consultants_definer_update on public.client_consultants for update to spine_definer using (true);
create policy client_users_definer_insert on public.client_users for insert to spine_definer with check (true);
create policy active_contexts_definer_insert on public.active_contexts for insert to spine_definer with check (true);
create policy active_contexts_definer_update on public.active_contexts for update to spine_definer using (true);
create policy user_sessions_definer_insert on public.user_sessions for insert to spine_definer with check (true);
create policy user_sessions_definer_update on public.user_sessions for update to spine_definer using (true);
-- An organisation that is gone left its audit log behind, and its id is nobody's to take again.
create policy audit_log_definer_select on public.audit_log for select to spine_definer using (resource_type = 'organizations');
grant select (org_id, resource_type) on public.audit_log to spine_definer;
-- A new organisation starts with limits.
create policy agent_limits_definer_insert on public.agent_limits for insert to spine_definer with check (true);
grant insert on public.agent_limits to spine_definer;
-- One owner at a time leaves or steps down: the organisation's row is what they wait for.
create policy organizations_definer_update on public.organizations for update to spine_definer using (true);
grant update (updated_at) on public.organizations to spine_definer;
create policy agent_tokens_definer_insert on public.agent_tokens for insert to spine_definer with check (true);
grant insert on public.organizations, public.org_members, public.org_consultants, public.clients, public.client_consultants,
    public.client_users, public.active_contexts, public.user_sessions, public.agent_tokens to spine_definer;
grant update (role) on public.org_consultants, public.client_consultants to spine_definer;
grant update (org_id, client_id, updated_at) on public.active_contexts to spine_definer;
grant update (revoked_at) on public.user_sessions to spine_definer;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, owner) values ('invitations', 'human'), ('personas', 'human'), ('deploys', 'system');
alter table public.data_ownership force row level security;

reset role;

-- Functions ------------------------------------------------------------------------------------------------------------------

grant create on schema public to spine_definer;
set local role spine_definer;

create or replace function app.keep_an_owner() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    -- Two owners who leave at once would each still see the other.
    perform from public.organizations o where o.id = old.org_id for no key update;
    if found and not exists (select from public.org_members m
                              where m.org_id = old.org_id and m.role_id = '00000000-0000-7000-8000-000000000001') then
        raise exception 'an organisation needs an owner' using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;

create function app.standing_uid() returns uuid
    language sql stable security definer set search_path = '' as $$
    select app.uid()
     where coalesce(app.claim('is_anonymous'), 'false') <> 'true'
       and not exists (select from public.user_sessions s
                        where s.id = app.as_uuid(app.claim('session_id'))
                          and (s.user_id <> app.uid() or s.revoked_at is not null or s.expires_at <= now()))
$$;
comment on function app.standing_uid() is 'The person, unless they are signed in anonymously or their session was revoked or is over.';

create function app.my_own_client_ids() returns uuid[]
    language sql stable security definer set search_path = '' as $$
    select coalesce(array_agg(u.client_id), '{}') from public.client_users u
     where u.org_id = app.active_org_id() and u.user_id = app.uid()
$$;
comment on function app.my_own_client_ids() is 'Clients whose own people the person is one of, in the active organisation.';

-- Somebody may be one client's consultant and another client's user: what one hat may do, the other must not lend.
create function app.my_consulted_client_ids() returns uuid[]
    language sql stable security definer set search_path = '' as $$
    with org as (select app.active_org_id() as id)
    select coalesce(array_agg(c.id), '{}')
      from public.clients c, org
     where c.org_id = org.id
       and (exists (select from public.client_consultants k where k.client_id = c.id and k.user_id = app.uid())
            or exists (select from public.org_consultants m
                        where m.org_id = org.id and m.user_id = app.uid() and m.role = 'manager'))
       and not exists (select from public.client_users u where u.client_id = c.id and u.user_id = app.uid())
$$;
comment on function app.my_consulted_client_ids() is 'Clients that the person works on as a consultant, and is not one of themselves, in the active organisation.';
grant execute on function app.standing_uid(), app.my_own_client_ids(), app.my_consulted_client_ids() to authenticated;

create function app.belongs(p_user uuid, p_org uuid) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.org_members m where m.org_id = p_org and m.user_id = p_user)
        or exists (select from public.org_consultants c where c.org_id = p_org and c.user_id = p_user)
        or exists (select from public.client_users u where u.org_id = p_org and u.user_id = p_user)
$$;
comment on function app.belongs(uuid, uuid) is 'Whether a person is staff, consultant or client user of an organisation.';

-- The person, or a refusal: signed in, not anonymously, in a session that stands.
create function app.signed_in() returns uuid
    language plpgsql stable security definer set search_path = '' as $$
begin
    if app.uid() is null or coalesce(app.claim('is_anonymous'), 'false') = 'true' then
        perform app.refuse('PT401', 'sign_in_required', 'Sign in with an account first; an anonymous one is not enough.');
    end if;
    if exists (select from public.user_sessions s
                where s.id = app.as_uuid(app.claim('session_id'))
                  and (s.user_id <> app.uid() or s.revoked_at is not null or s.expires_at <= now())) then
        perform app.refuse('PT401', 'session_revoked', 'This session was ended. Sign in again.');
    end if;
    -- A token outlives the account it was made for.
    if not exists (select from public.profiles p where p.id = app.uid()) then
        perform app.refuse('PT401', 'account_unknown', 'There is no such account any more.');
    end if;
    return app.uid();
end
$$;

-- Makes `p_org` the one this session works in. Without a session in the token there is nothing to remember it for.
create function app.remember_context(p_org uuid, p_client uuid) returns void
    language sql volatile security definer set search_path = '' as $$
    insert into public.active_contexts as c (session_id, user_id, org_id, client_id)
    select app.as_uuid(app.claim('session_id')), app.uid(), p_org, p_client
     where app.as_uuid(app.claim('session_id')) is not null
    on conflict (session_id) do update set org_id = excluded.org_id, client_id = excluded.client_id, updated_at = now()
     where c.user_id = app.uid()
$$;

-- The one list of a person's that spans organisations: what there is to choose from.
create function public.my_organizations() returns table (id uuid, name text, slug text)
    language plpgsql stable security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_user uuid := app.signed_in();
begin
    return query select o.id, o.name, o.slug from public.organizations o where o.id in (
        select m.org_id from public.org_members m where m.user_id = v_user
        union select c.org_id from public.org_consultants c where c.user_id = v_user
        union select u.org_id from public.client_users u where u.user_id = v_user) order by o.name, o.id;
end
$$;
comment on function public.my_organizations() is 'The organisations that the person belongs to.';

create function public.set_active_context(org_id uuid, client_id uuid default null) returns void
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
begin
    if not coalesce(app.belongs(app.signed_in(), org_id), false) then
        perform app.refuse('PT404', 'organization_not_found', 'There is no such organisation that you belong to.');
    end if;
    if app.as_uuid(app.claim('session_id')) is null then
        perform app.refuse('PT422', 'session_required', 'The token names no session to remember this for; send the header Spine-Org instead.');
    end if;
    if client_id is not null and not exists (
        select from public.clients k where k.org_id = org_id and k.id = client_id
           and (exists (select from public.org_members m where m.org_id = k.org_id and m.user_id = app.uid())
                or exists (select from public.org_consultants m
                            where m.org_id = k.org_id and m.user_id = app.uid() and m.role = 'manager')
                or exists (select from public.client_consultants m where m.client_id = k.id and m.user_id = app.uid())
                or exists (select from public.client_users m where m.client_id = k.id and m.user_id = app.uid()))) then
        perform app.refuse('PT404', 'client_not_found', 'There is no such client of this organisation that you work with.');
    end if;
    perform app.remember_context(org_id, client_id);
end
$$;
comment on function public.set_active_context(uuid, uuid) is
    'Chooses the organisation, and the client within it, that this session works in. Other sessions of the person stay where they are.';

create function public.revoke_session(session_id uuid) returns void
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_user uuid := app.signed_in();
begin
    -- One's own: listed when it signed in, or the one this token is of.
    update public.user_sessions s set revoked_at = coalesce(s.revoked_at, now()) where s.id = session_id and s.user_id = v_user;
    if not found then
        if session_id is null or session_id is distinct from app.as_uuid(app.claim('session_id')) then
            perform app.refuse('PT404', 'session_not_found', 'There is no such session of yours.');
        end if;
        -- Unless it was listed meanwhile.
        insert into public.user_sessions as s (id, user_id, revoked_at) values (session_id, v_user, now())
        on conflict (id) do update set revoked_at = coalesce(s.revoked_at, excluded.revoked_at) where s.user_id = excluded.user_id;
    end if;
end
$$;
comment on function public.revoke_session(uuid) is 'Ends a session of one''s own before its token expires.';

-- Supabase calls this for each token it signs; `client_id` there means an OAuth client. What it adds is a hint: the helpers check membership on every statement.
create function app.custom_access_token_hook(event jsonb) returns jsonb
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_user    uuid := app.as_uuid(event ->> 'user_id');
    v_session uuid := app.as_uuid(event -> 'claims' ->> 'session_id');
    v_org     uuid;
    v_client  uuid;
    v_orgs    uuid[];
begin
    if v_session is not null and v_user is not null then
        -- Listed, so that the person can find it and end it.
        insert into public.user_sessions (id, user_id) select v_session, p.id from public.profiles p where p.id = v_user
        on conflict (id) do nothing;
        if exists (select from public.user_sessions s where s.id = v_session and (s.user_id <> v_user or s.revoked_at is not null or s.expires_at <= now())) then
            return jsonb_build_object('error', jsonb_build_object('http_code', 403, 'message', 'This session was ended. Sign in again.'));
        end if;
    end if;
    select c.org_id, c.client_id into v_org, v_client from public.active_contexts c where c.session_id = v_session and c.user_id = v_user;
    if v_org is not null and not app.belongs(v_user, v_org) then
        v_org := null;
        v_client := null;
    end if;
    -- Archived or gone meanwhile, or no longer theirs: whoever may see clients asks for it again.
    if not exists (select from public.clients k where k.org_id = v_org and k.id = v_client and k.status = 'active') then
        v_client := null;
    end if;
    if v_org is null then
        -- Whoever belongs to just one organisation never has to choose.
        select array_agg(o.org_id) into v_orgs
          from (select m.org_id from public.org_members m where m.user_id = v_user
                union select c.org_id from public.org_consultants c where c.user_id = v_user
                union select u.org_id from public.client_users u where u.user_id = v_user) o;
        if cardinality(v_orgs) = 1 then
            v_org := v_orgs[1];
        end if;
    end if;
    return jsonb_build_object('claims', (event -> 'claims')
        || case when v_org is null then '{}' else jsonb_build_object('org_id', v_org) end
        || case when v_client is null then '{}' else jsonb_build_object('spine_client_id', v_client) end);
end
$$;
comment on function app.custom_access_token_hook(jsonb) is
    'Supabase''s access-token hook: puts the session''s organisation and client into the token; refuses to renew a revoked session.';

create function public.create_organization_with_context(name text, slug text default null, id uuid default null)
    returns table (org_id uuid, org_slug text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_user uuid := app.signed_in();
    v_id   uuid := coalesce(id, app.uuidv7());
    v_name text := btrim(name);
    v_slug text := lower(btrim(slug));
    v_made uuid;
begin
    if v_name is null or length(v_name) not between 1 and 200 then
        perform app.refuse('PT422', 'name_invalid', 'An organisation needs a name of 1 to 200 characters.');
    end if;
    -- One at a time for a person: a retry that overtakes its first attempt finds what that made.
    perform pg_advisory_xact_lock(hashtextextended('spine organization of ' || v_user, 0));
    if id is not null and exists (select from public.organizations o where o.id = v_id) then
        return query select o.id, o.slug from public.organizations o
                       join public.org_members m on m.org_id = o.id and m.user_id = v_user
                        and m.role_id = '00000000-0000-7000-8000-000000000001'
                      where o.id = v_id;
        if not found then
            perform app.refuse('PT409', 'id_taken', 'This id belongs to something else; use a new one.');
        end if;
        perform app.remember_context(v_id, null);
        return;
    end if;
    if exists (select from public.audit_log a where a.org_id = v_id and a.resource_type = 'organizations') then
        perform app.refuse('PT409', 'id_taken', 'This id belonged to an organisation that is gone; use a new one.');
    end if;
    if (select count(*) from public.org_members m
         where m.user_id = v_user and m.role_id = '00000000-0000-7000-8000-000000000001') >= 20 then
        perform app.refuse('PT422', 'too_many_organizations', 'One person can own twenty organisations.');
    end if;
    if v_slug is null then
        v_slug := coalesce(nullif(btrim(left(regexp_replace(lower(v_name), '[^a-z0-9]+', '-', 'g'), 40), '-'), ''), 'organization');
        if length(v_slug) < 2 then
            v_slug := v_slug || '-org';
        end if;
    elsif v_slug !~ '^[a-z0-9](-?[a-z0-9]){1,62}$' then
        perform app.refuse('PT422', 'slug_invalid', 'A slug has 2 to 63 letters or digits, with single hyphens between them.');
    end if;
    -- A slug that was asked for is that one or none; one made from the name gives way.
    for attempt in 0 .. 5 loop
        insert into public.organizations (id, name, slug)
        values (v_id, v_name, v_slug || case when attempt > 0 then '-' || left(replace(gen_random_uuid()::text, '-', ''), 6) else '' end)
        on conflict do nothing returning organizations.id into v_made;
        exit when v_made is not null or slug is not null;
    end loop;
    if v_made is null then
        -- Two people may try the same id at the same moment.
        if exists (select from public.organizations o where o.id = v_id) then
            perform app.refuse('PT409', 'id_taken', 'This id belongs to something else; use a new one.');
        end if;
        perform app.refuse('PT409', 'slug_taken', 'Another organisation has this slug.');
    end if;
    insert into public.org_members (org_id, user_id, role_id) values (v_id, v_user, '00000000-0000-7000-8000-000000000001');
    -- Twenty dollars a month until its owner decides otherwise.
    insert into public.agent_limits (org_id, agent, scope, period, max_requests, max_cost_micro_usd)
    values (v_id, 'renderer', 'agent', 'month', 500, 20000000);
    perform app.remember_context(v_id, null);
    return query select o.id, o.slug from public.organizations o where o.id = v_id;
end
$$;
comment on function public.create_organization_with_context(text, text, uuid) is
    'Makes an organisation with the caller as its owner, and makes it the one their session works in. Repeating it with the same id makes nothing twice.';

-- Whether the person runs the clients of the active organisation: by permission, or as a manager among its consultants.
create function app.manages_clients(wanted text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select app.may(wanted) or exists (select from public.org_consultants m
                                       where m.org_id = app.active_org_id() and m.user_id = app.uid() and m.role = 'manager')
$$;

create function public.create_client_with_context(org_id uuid, name text, email text default null, phone text default null,
                                                  address text default null, id uuid default null) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_user uuid := app.signed_in();
    v_id   uuid := coalesce(id, app.uuidv7());
    v_name text := btrim(name);
    v_made boolean;
begin
    if org_id is distinct from app.active_org_id() then
        perform app.refuse('PT404', 'organization_not_found', 'This is not the organisation you work in; choose it with set_active_context first.');
    end if;
    if not app.manages_clients('clients:create') then
        perform app.refuse('PT403', 'clients_create_forbidden', 'Your role in this organisation does not allow clients:create.');
    end if;
    if v_name is null or length(v_name) not between 1 and 200 then
        perform app.refuse('PT422', 'name_invalid', 'A client needs a name of 1 to 200 characters.');
    end if;
    if greatest(length(email), length(phone), length(address)) > 500 then
        perform app.refuse('PT422', 'contact_invalid', 'E-mail, phone and address have at most 500 characters each.');
    end if;
    insert into public.clients (id, org_id, name, email, phone, address) values (v_id, org_id, v_name, email, phone, address)
    on conflict do nothing;
    v_made := found;
    -- Somebody else's id, or a retry.
    if not exists (select from public.clients k where k.id = v_id and k.org_id = org_id and k.name = v_name) then
        perform app.refuse('PT409', 'id_taken', 'This id belongs to something else; use a new one.');
    end if;
    -- Staff see every client; a consultant only those they are assigned to. A retry assigns nobody: they may have been taken off since.
    insert into public.client_consultants (org_id, client_id, user_id, role)
    select c.org_id, v_id, c.user_id, 'lead' from public.org_consultants c where v_made and c.org_id = org_id and c.user_id = v_user;
    perform app.remember_context(org_id, v_id);
    return v_id;
end
$$;
comment on function public.create_client_with_context(uuid, text, text, text, text, uuid) is
    'Makes a client, assigns the caller if they are a consultant, and makes it the one their session works in. Repeating it with the same id makes nothing twice.';

create function public.add_client_consultant_safe(client_id uuid, user_id uuid, role text default 'consultant') returns void
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_client public.clients;
begin
    perform app.signed_in();
    select * into v_client from public.clients k where k.id = client_id and k.org_id = app.active_org_id();
    if not found or not (app.may('clients:read') or client_id = any (app.my_client_ids())) then
        perform app.refuse('PT404', 'client_not_found', 'There is no such client in the organisation you work in.');
    end if;
    if not app.manages_clients('clients:update') then
        perform app.refuse('PT403', 'clients_update_forbidden', 'Your role in this organisation does not allow clients:update.');
    end if;
    if v_client.status = 'archived' then
        perform app.refuse('PT409', 'client_archived', 'This client is archived; make it active first.');
    end if;
    if role is null or role not in ('consultant', 'lead') then
        perform app.refuse('PT422', 'role_unknown', 'A consultant works on a client as consultant or as lead.');
    end if;
    -- Held until commit, so that nobody ceases to be a consultant in between.
    perform from public.org_consultants c where c.org_id = v_client.org_id and c.user_id = add_client_consultant_safe.user_id for key share;
    if not found then
        perform app.refuse('PT422', 'consultant_not_in_organization', 'Only a consultant of this organisation can be put on its clients; invite them first.');
    end if;
    insert into public.client_consultants as k (org_id, client_id, user_id, role) values (v_client.org_id, client_id, user_id, role)
    on conflict on constraint client_consultants_pkey do update set role = excluded.role where k.role <> excluded.role;
end
$$;
comment on function public.add_client_consultant_safe(uuid, uuid, text) is
    'Puts a consultant of the organisation on one of its clients, or changes what they are there. Refuses anyone else.';

create function public.create_invitation(kind text, email text, role_id uuid default null, role text default null,
                                         client_id uuid default null)
    returns table (invitation_id uuid, token text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_org   uuid := app.active_org_id();
    v_email text := lower(btrim(email));
    v_role  text := case when kind = 'consultant' then coalesce(role, 'consultant') when kind = 'client_user' then coalesce(role, 'member') end;
    -- 256 bits.
    v_token text := translate(rtrim(encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64'), '='), '+/', '-_');
begin
    perform app.signed_in();
    if v_org is null then
        perform app.refuse('PT404', 'organization_not_found', 'Choose the organisation you work in first.');
    end if;
    if kind is null or kind not in ('member', 'consultant', 'client_user') then
        perform app.refuse('PT422', 'kind_unknown', 'One is invited as member, consultant or client_user.');
    end if;
    if not (case when kind = 'client_user' then app.manages_clients('clients:update') else app.may('members:update') end) then
        perform app.refuse('PT403', 'invite_forbidden', 'Your role in this organisation does not allow inviting this kind of person.');
    end if;
    if v_email is null or v_email !~ '^[^@\s]+@[^@\s]+$' or length(v_email) > 320 then
        perform app.refuse('PT422', 'email_invalid', 'This is not an e-mail address.');
    end if;
    if kind = 'member' and not coalesce(app.may_grant(role_id), false) then
        perform app.refuse('PT422', 'role_unknown', 'There is no such role that you may give.');
    end if;
    -- Nobody lets in somebody who may do more than they themselves.
    if kind = 'consultant' and not (app.may_grant('00000000-0000-7000-8000-000000000005')
                                    and (v_role <> 'manager' or app.may('clients:create') and app.may('clients:update')))
       or kind = 'client_user' and not (app.may_grant('00000000-0000-7000-8000-000000000006') or app.manages_clients('clients:update')) then
        perform app.refuse('PT422', 'role_unknown', 'There is no such role that you may give.');
    end if;
    if kind = 'consultant' and v_role not in ('consultant', 'manager') or kind = 'client_user' and v_role not in ('member', 'admin') then
        perform app.refuse('PT422', 'role_unknown', 'There is no such role for this kind of person.');
    end if;
    if kind = 'client_user' and not exists (select from public.clients k where k.org_id = v_org and k.id = client_id and k.status = 'active') then
        perform app.refuse('PT404', 'client_not_found', 'There is no such active client in the organisation you work in.');
    end if;
    if (select count(*) from public.invitations i where i.org_id = v_org and i.accepted_at is null and i.expires_at > now()) >= 500 then
        perform app.refuse('PT422', 'too_many_invitations', 'Five hundred invitations are open; take back some that nobody accepted.');
    end if;
    return query insert into public.invitations (org_id, kind, email, role_id, role, client_id, token_hash, invited_by)
    values (v_org, kind, v_email, case when kind = 'member' then role_id end, v_role, case when kind = 'client_user' then client_id end,
            sha256(convert_to(v_token, 'UTF8')), app.uid())
    returning invitations.id, v_token;
end
$$;
comment on function public.create_invitation(text, text, uuid, text, uuid) is
    'Invites an address to the active organisation. The token is returned this once, to be sent there; only its hash is kept.';

create function public.accept_invitation(token text) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_user uuid := app.signed_in();
    i      public.invitations;
begin
    select * into i from public.invitations x
     where x.token_hash = sha256(convert_to(coalesce(accept_invitation.token, ''), 'UTF8')) for update;
    -- Another's invitation, one that never was: the same answer.
    if not found or i.email is distinct from lower(app.claim('email')) then
        perform app.refuse('PT404', 'invitation_not_found', 'There is no such invitation for your address.');
    end if;
    -- Whoever was removed since is not let in by the invitation they once used.
    if (case when i.accepted_at is null then i.expires_at <= now()
             else i.accepted_by is distinct from v_user or not app.belongs(v_user, i.org_id) end) then
        perform app.refuse('PT409', 'invitation_ended', 'This invitation was used or is too old; ask for a new one.');
    end if;
    -- An invitation is worth what whoever gave it is: nothing, once they have left.
    if i.accepted_at is null and not (exists (select from public.org_members m where m.org_id = i.org_id and m.user_id = i.invited_by)
                                      or i.kind = 'client_user' and exists (
                                          select from public.org_consultants m
                                           where m.org_id = i.org_id and m.user_id = i.invited_by and m.role = 'manager')) then
        perform app.refuse('PT409', 'invitation_ended', 'Whoever sent this invitation has left; ask for a new one.');
    end if;
    if i.accepted_at is null and i.client_id is not null
       and not exists (select from public.clients k where k.org_id = i.org_id and k.id = i.client_id and k.status = 'active') then
        perform app.refuse('PT409', 'client_archived', 'This client is archived; ask whoever invited you.');
    end if;
    if i.accepted_at is null then
        if (case i.kind
                when 'member' then exists (select from public.org_members m where m.org_id = i.org_id and m.user_id = v_user)
                when 'consultant' then exists (select from public.org_consultants m where m.org_id = i.org_id and m.user_id = v_user)
                else exists (select from public.client_users m where m.client_id = i.client_id and m.user_id = v_user) end) then
            perform app.refuse('PT409', 'already_member', 'You belong there already; whoever runs the organisation can change your role.');
        end if;
        case i.kind
            when 'member' then
                insert into public.org_members (org_id, user_id, role_id) values (i.org_id, v_user, i.role_id) on conflict do nothing;
            when 'consultant' then
                insert into public.org_consultants (org_id, user_id, role) values (i.org_id, v_user, i.role) on conflict do nothing;
            else
                insert into public.client_users (org_id, client_id, user_id, role) values (i.org_id, i.client_id, v_user, i.role)
                on conflict do nothing;
        end case;
        update public.invitations set accepted_at = now(), accepted_by = v_user where id = i.id;
    end if;
    perform app.remember_context(i.org_id, i.client_id);
    return i.org_id;
end
$$;
comment on function public.accept_invitation(text) is
    'Joins the organisation one was invited to, with the address one was invited at. Accepting again changes nothing.';

-- What somebody gave away ends as they come to have less: they give it anew as what they are now.
create function app.end_invitations() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    update public.invitations i set expires_at = least(i.expires_at, now())
     where i.org_id = old.org_id and i.invited_by = old.user_id and i.accepted_at is null;
    return null;
end
$$;
grant execute on function app.end_invitations() to spine_owner;

create function public.issue_agent_token(agent_id uuid, scopes text[] default null, expires_at timestamptz default null)
    returns table (token_id uuid, token text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_agent public.agents;
    v_token text := 'spine_agent_'
        || translate(rtrim(encode(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()), 'base64'), '='), '+/', '-_');
begin
    perform app.signed_in();
    select * into v_agent from public.agents a where a.id = agent_id and a.org_id = app.active_org_id();
    if not found or not app.may('agents:read') then
        perform app.refuse('PT404', 'agent_not_found', 'There is no such agent in the organisation you work in.');
    end if;
    -- A token does what the agent's role allows: nobody gives what they do not have.
    if not (app.may('agents:update') and app.may_grant(v_agent.role_id)) then
        perform app.refuse('PT403', 'agents_update_forbidden', 'Your role does not allow giving this agent a token.');
    end if;
    if cardinality(scopes) > 100 or exists (select from unnest(scopes) s where s is null or s !~ '^[a-z_]+:[a-z_]+$') then
        perform app.refuse('PT422', 'scope_invalid', 'A scope reads resource:action, and there are at most a hundred.');
    end if;
    if expires_at <= now() then
        perform app.refuse('PT422', 'expires_at_past', 'A token that has expired is of no use.');
    end if;
    return query insert into public.agent_tokens (org_id, agent_id, token_hash, scopes, expires_at)
    values (v_agent.org_id, v_agent.id, sha256(convert_to(v_token, 'UTF8')), scopes, expires_at)
    returning agent_tokens.id, v_token;
end
$$;
comment on function public.issue_agent_token(uuid, text[], timestamptz) is
    'Makes a token for an agent of the active organisation. It is returned this once; only its hash is kept.';

grant execute on function public.my_organizations(), public.set_active_context(uuid, uuid), public.revoke_session(uuid),
    public.create_organization_with_context(text, text, uuid),
    public.create_client_with_context(uuid, text, text, text, text, uuid), public.add_client_consultant_safe(uuid, uuid, text),
    public.create_invitation(text, text, uuid, text, uuid), public.accept_invitation(text),
    public.issue_agent_token(uuid, text[], timestamptz) to authenticated;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

-- A revoked session sees nothing, not even itself.
alter policy profiles_select on public.profiles
    using (case when id = (select app.standing_uid()) then true else id = any ((select app.colleague_ids())::uuid[]) end);
alter policy profiles_update on public.profiles
    using (id = (select app.standing_uid())) with check (id = (select app.standing_uid()));
create trigger org_members_end_invitations after update of role_id or delete on public.org_members
    for each row execute function app.end_invitations();
create trigger org_consultants_end_invitations after update of role or delete on public.org_consultants
    for each row execute function app.end_invitations();
alter policy user_sessions_select on public.user_sessions using (user_id = (select app.standing_uid()));
alter policy active_contexts_select on public.active_contexts using (user_id = (select app.standing_uid()));

reset role;

do $$
begin
    -- Supabase's auth server calls the hook as this role; it is not everywhere.
    if exists (select from pg_catalog.pg_roles where rolname = 'supabase_auth_admin') then
        grant usage on schema app to supabase_auth_admin;
        set local role spine_definer;
        grant execute on function app.custom_access_token_hook(jsonb) to supabase_auth_admin;
        reset role;
    end if;
end
$$;
