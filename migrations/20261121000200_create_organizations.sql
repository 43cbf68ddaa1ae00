-- Create organisations, people, the access chain, agents, and the helpers that policies ask.
--
-- Locks:   none on existing tables, beyond a brief lock on auth.users for its trigger.
-- Rollout: expand.
-- Undo:    drop the tables in reverse order and the trigger on auth.users.

set local role spine_owner;

create table public.organizations (
    id                 uuid        primary key default app.uuidv7(),
    name               text        not null,
    slug               text        not null,
    plan               text        not null default 'free',
    branding           jsonb       not null default '{}',
    stripe_customer_id text,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),

    constraint organizations_slug_key unique (slug),
    constraint organizations_stripe_customer_id_key unique (stripe_customer_id),
    constraint organizations_name_check check (length(name) between 1 and 200),
    constraint organizations_slug_check check (slug ~ '^[a-z0-9](-?[a-z0-9]){1,62}$')
);
comment on table public.organizations is 'A tenant. Plan and Stripe customer are written by the system alone.';

create table public.profiles (
    id                  uuid        primary key,
    email               text,
    full_name           text,
    phone               text,
    onboarding_complete boolean     not null default false,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),

    constraint profiles_full_name_check check (length(full_name) <= 200)
);
comment on table public.profiles is 'A person: the same id as auth.users, made by a trigger on sign-up.';

create table public.roles (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        references public.organizations (id) on delete cascade,
    name        text        not null,
    description text        not null default '',
    created_at  timestamptz not null default now(),

    constraint roles_name_check check (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    constraint roles_org_id_name_key unique nulls not distinct (org_id, name)
);
comment on table public.roles is 'Built-in roles have no organisation; an organisation may add its own.';

create table public.permissions (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        references public.organizations (id) on delete cascade,
    role_id    uuid        not null references public.roles (id) on delete cascade,
    resource   text        not null,
    action     text        not null,
    created_at timestamptz not null default now(),

    constraint permissions_role_id_resource_action_key unique (role_id, resource, action),
    constraint permissions_resource_check check (resource ~ '^([a-z_]+|\*)$'),
    constraint permissions_action_check check (action ~ '^([a-z_]+|\*)$')
);
comment on table public.permissions is 'What a role may do, as resource:action; * stands for all.';
create index permissions_org_id_idx on public.permissions (org_id);

create table public.org_members (
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    role_id    uuid        not null references public.roles (id),
    created_at timestamptz not null default now(),
    primary key (org_id, user_id)
);
comment on table public.org_members is 'Staff of an organisation.';
create index org_members_user_id_idx on public.org_members (user_id);
create index org_members_role_id_idx on public.org_members (role_id);

create table public.org_consultants (
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    role       text        not null default 'consultant',
    created_at timestamptz not null default now(),
    primary key (org_id, user_id),
    constraint org_consultants_role_check check (role in ('consultant', 'manager'))
);
comment on table public.org_consultants is 'Outside consultants. A manager works on every client of the organisation.';
create index org_consultants_user_id_idx on public.org_consultants (user_id);

create table public.clients (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    name       text        not null,
    email      text,
    phone      text,
    address    text,
    status     text        not null default 'active',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    constraint clients_org_id_id_key unique (org_id, id),
    constraint clients_name_check check (length(name) between 1 and 200),
    constraint clients_status_check check (status in ('active', 'archived'))
);
comment on table public.clients is 'A customer of an organisation.';

create table public.client_consultants (
    org_id     uuid        not null,
    client_id  uuid        not null,
    user_id    uuid        not null,
    role       text        not null default 'consultant',
    created_at timestamptz not null default now(),
    primary key (client_id, user_id),
    constraint client_consultants_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade,
    -- Only a consultant of the organisation may be put on a client of it.
    constraint client_consultants_org_id_user_id_fkey
        foreign key (org_id, user_id) references public.org_consultants (org_id, user_id) on delete cascade,
    constraint client_consultants_role_check check (role in ('consultant', 'lead'))
);
comment on table public.client_consultants is 'Which consultants work on which client.';
create index client_consultants_org_id_user_id_idx on public.client_consultants (org_id, user_id);
create index client_consultants_org_id_client_id_idx on public.client_consultants (org_id, client_id);

create table public.client_users (
    org_id     uuid        not null,
    client_id  uuid        not null,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    role       text        not null default 'member',
    created_at timestamptz not null default now(),
    primary key (client_id, user_id),
    constraint client_users_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade,
    constraint client_users_role_check check (role in ('member', 'admin'))
);
comment on table public.client_users is 'The client''s own people.';
create index client_users_user_id_idx on public.client_users (user_id, org_id);
create index client_users_org_id_client_id_idx on public.client_users (org_id, client_id);

create table public.user_sessions (
    id         uuid        primary key,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz not null default now()
);
comment on table public.user_sessions is 'Sessions that end before their token does. A session not listed is allowed, a revoked one sees nothing.';
create index user_sessions_user_id_idx on public.user_sessions (user_id);

create table public.active_contexts (
    session_id uuid        primary key,
    user_id    uuid        not null references public.profiles (id) on delete cascade,
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    client_id  uuid,
    updated_at timestamptz not null default now(),
    constraint active_contexts_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.active_contexts is 'Which organisation a session works in, so that one tab cannot redirect another''s writes.';
create index active_contexts_user_id_idx on public.active_contexts (user_id);
create index active_contexts_org_id_client_id_idx on public.active_contexts (org_id, client_id);

create table public.agents (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null references public.organizations (id) on delete cascade,
    name       text        not null,
    kind       text        not null,
    role_id    uuid        not null references public.roles (id),
    status     text        not null default 'active',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    constraint agents_org_id_id_key unique (org_id, id),
    constraint agents_org_id_name_key unique (org_id, name),
    constraint agents_name_check check (length(name) between 1 and 100),
    constraint agents_status_check check (status in ('active', 'paused'))
);
comment on table public.agents is 'An AI agent: it acts for one organisation, with a role of its own, and is never a person.';
create index agents_role_id_idx on public.agents (role_id);

create table public.agent_tokens (
    id         uuid        primary key default app.uuidv7(),
    org_id     uuid        not null,
    agent_id   uuid        not null,
    token_hash bytea       not null,
    scopes     text[],
    expires_at timestamptz,
    revoked_at timestamptz,
    created_at timestamptz not null default now(),

    constraint agent_tokens_token_hash_key unique (token_hash),
    constraint agent_tokens_token_hash_check check (length(token_hash) = 32),
    constraint agent_tokens_org_id_agent_id_fkey
        foreign key (org_id, agent_id) references public.agents (org_id, id) on delete cascade
);
comment on table public.agent_tokens is 'SHA-256 of what an agent signs in with. Scopes narrow the role; null means all of it.';
create index agent_tokens_org_id_agent_id_idx on public.agent_tokens (org_id, agent_id);

create table public.data_ownership (
    id          uuid primary key default app.uuidv7(),
    table_name  text not null,
    column_name text,
    owner       text not null,
    constraint data_ownership_owner_check check (owner in ('human', 'agent', 'system')),
    constraint data_ownership_table_name_column_name_key unique nulls not distinct (table_name, column_name)
);
comment on table public.data_ownership is 'Who writes which table or column: people, agents or the system alone.';

-- Built-in roles and what they may do ------------------------------------------------------------------------------------

insert into public.roles (id, name, description) values
    ('00000000-0000-7000-8000-000000000001', 'owner', 'Everything in the organisation'),
    ('00000000-0000-7000-8000-000000000002', 'admin', 'Everything in the organisation'),
    ('00000000-0000-7000-8000-000000000003', 'designer', 'Projects, renders, assets and content'),
    ('00000000-0000-7000-8000-000000000004', 'sales', 'Leads assigned to them'),
    ('00000000-0000-7000-8000-000000000005', 'consultant', 'Clients they are assigned to'),
    ('00000000-0000-7000-8000-000000000006', 'client', 'Their own submissions, renders and shared projects'),
    ('00000000-0000-7000-8000-000000000007', 'agent', 'Renders on behalf of the organisation');

insert into public.permissions (role_id, resource, action) values
    ('00000000-0000-7000-8000-000000000001', '*', '*'),
    ('00000000-0000-7000-8000-000000000002', '*', '*'),
    ('00000000-0000-7000-8000-000000000003', 'projects', '*'),
    ('00000000-0000-7000-8000-000000000003', 'renders', '*'),
    ('00000000-0000-7000-8000-000000000003', 'assets', '*'),
    ('00000000-0000-7000-8000-000000000003', 'content', '*'),
    ('00000000-0000-7000-8000-000000000003', 'clients', 'read'),
    ('00000000-0000-7000-8000-000000000004', 'leads', 'update'),
    ('00000000-0000-7000-8000-000000000005', 'renders', 'create'),
    ('00000000-0000-7000-8000-000000000006', 'renders', 'create'),
    ('00000000-0000-7000-8000-000000000007', 'projects', 'read'),
    ('00000000-0000-7000-8000-000000000007', 'renders', 'create'),
    ('00000000-0000-7000-8000-000000000007', 'renders', 'read_all');

-- Helpers ------------------------------------------------------------------------------------------------------------------

grant select on public.organizations, public.profiles, public.roles, public.permissions, public.org_members,
    public.org_consultants, public.clients, public.client_consultants, public.client_users, public.user_sessions,
    public.active_contexts, public.agents, public.agent_tokens, public.data_ownership to spine_definer;

reset role;
set local role spine_definer;

create function app.org_header() returns text language sql stable set search_path = '' as $$
    select nullif(current_setting('request.headers', true), '')::jsonb ->> 'spine-org'
$$;

-- The organisation asked for: this request's header, else the token's, else the session's choice.
create function app.requested_org_id() returns uuid
    language sql stable security definer set search_path = '' as $$
    -- A header that names nothing means nothing, not something else.
    select case when app.org_header() is not null then app.as_uuid(app.org_header()) else coalesce(
        app.as_uuid(app.claim('org_id')),
        (select c.org_id from public.active_contexts c
          where c.session_id = app.as_uuid(app.claim('session_id')) and c.user_id = app.uid())) end
$$;

create function app.active_org_id() returns uuid
    language sql stable security definer set search_path = '' as $$
    select o.id
      from (select app.requested_org_id() as id) o
     where coalesce(app.claim('is_anonymous'), 'false') <> 'true'
       and not exists (select from public.user_sessions s
                        where s.id = app.as_uuid(app.claim('session_id'))
                          and (s.user_id <> app.uid() or s.revoked_at is not null or s.expires_at <= now()))
       and (exists (select from public.org_members m where m.org_id = o.id and m.user_id = app.uid())
            or exists (select from public.org_consultants c where c.org_id = o.id and c.user_id = app.uid())
            or exists (select from public.client_users u where u.org_id = o.id and u.user_id = app.uid()))
$$;
comment on function app.active_org_id() is
    'The organisation a person works in, if they belong to it and their session stands; else null, which matches no row.';

create function app.may(wanted text) returns boolean
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
    select exists (select from public.permissions p join held on held.role_id = p.role_id cross join org
                    where (p.org_id is null or p.org_id = org.id) and p.resource in (split_part(wanted, ':', 1), '*') and p.action in (split_part(wanted, ':', 2), '*'))
$$;
comment on function app.may(text) is 'Whether the person may do resource:action in their active organisation.';

-- Nobody gives what they do not have: a role may be given by whoever may do all that it allows.
create function app.may_grant(p_role uuid) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from public.roles r where r.id = p_role and (r.org_id is null or r.org_id = app.active_org_id()))
       and not exists (select from public.permissions p
                        where p.role_id = p_role and not app.may(p.resource || ':' || p.action))
$$;
comment on function app.may_grant(uuid) is 'Whether the person may give this role to somebody in their active organisation.';

create function app.my_client_ids() returns uuid[]
    language sql stable security definer set search_path = '' as $$
    with org as (select app.active_org_id() as id)
    select coalesce(array_agg(c.id), '{}')
      from public.clients c, org
     where c.org_id = org.id
       and (exists (select from public.client_users u where u.client_id = c.id and u.user_id = app.uid())
            or exists (select from public.client_consultants k where k.client_id = c.id and k.user_id = app.uid())
            or exists (select from public.org_consultants m
                        where m.org_id = org.id and m.user_id = app.uid() and m.role = 'manager'))
$$;
comment on function app.my_client_ids() is 'Clients that a consultant or client user works with, in the active organisation.';

create function app.agent_token() returns public.agent_tokens
    language sql stable security definer set search_path = '' as $$
    select t from public.agent_tokens t join public.agents a on a.org_id = t.org_id and a.id = t.agent_id
     where app.claim('agent_token_sha256') ~ '^[0-9a-f]{64}$'
       and t.token_hash = decode(app.claim('agent_token_sha256'), 'hex')
       and t.revoked_at is null and (t.expires_at is null or t.expires_at > now()) and a.status = 'active'
$$;

create function app.agent_id() returns uuid language sql stable security definer set search_path = '' as $$
    select (app.agent_token()).agent_id
$$;
create function app.agent_org_id() returns uuid language sql stable security definer set search_path = '' as $$
    select t.org_id from app.agent_token() t
     where app.org_header() is null or t.org_id = app.as_uuid(app.org_header())
$$;
comment on function app.agent_org_id() is 'The organisation of the agent whose token this is, if the token stands; else null.';

create function app.agent_may(wanted text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (select from app.agent_token() t
                     join public.agents a on a.id = t.agent_id
                     join public.permissions p on p.role_id = a.role_id and (p.org_id is null or p.org_id = t.org_id)
                    where p.resource in (split_part(wanted, ':', 1), '*') and p.action in (split_part(wanted, ':', 2), '*')
                      and (t.scopes is null or wanted = any (t.scopes)))
$$;

-- The setting `role` survives entry into a security definer function, where current_user does not.
create function app.current_org_id() returns uuid
    language sql stable security definer set search_path = '' as $$
    select case current_setting('role')
               when 'spine_service' then app.service_org()
               when 'spine_agent' then app.agent_org_id()
               else app.active_org_id()
           end
$$;
comment on function app.current_org_id() is 'The organisation of whoever runs this transaction: person, agent or system.';

-- The gate of a function: who is this, in which organisation, and may they?
create function app.enter(wanted text)
    returns table (org_id uuid, user_id uuid, agent_id uuid, allowed boolean)
    language sql stable security definer set search_path = '' as $$
    select app.current_org_id(),
           case when current_setting('role') <> 'spine_agent' then app.uid() end,
           case when current_setting('role') = 'spine_agent' then app.agent_id() end,
           case when current_setting('role') = 'spine_agent' then app.agent_may(wanted) else app.may(wanted) end
$$;

grant execute on function app.active_org_id(), app.may(text), app.may_grant(uuid), app.my_client_ids() to authenticated, spine_caller;
grant execute on function app.agent_id(), app.agent_org_id(), app.agent_may(text) to spine_agent;
grant execute on function app.enter(text), app.current_org_id() to spine_caller, spine_agent, spine_service;

reset role;
set local role spine_owner;

-- Policies -----------------------------------------------------------------------------------------------------------------

do $$
declare
    chain text;
begin
    foreach chain in array array['organizations', 'profiles', 'roles', 'permissions', 'org_members', 'org_consultants', 'clients',
                                 'client_consultants', 'client_users', 'user_sessions', 'active_contexts', 'agents', 'agent_tokens',
                                 'data_ownership'] loop
        execute format('alter table public.%I enable row level security', chain);
        execute format('alter table public.%I force row level security', chain);
        -- The helpers read the chain to find out who is asking; nothing else of the definer's is unrestricted.
        execute format('create policy %I on public.%I for select to spine_definer using (true)', chain || '_definer_select', chain);
    end loop;
end
$$;

create policy organizations_select on public.organizations for select to authenticated
    using (id = (select app.active_org_id()));
create policy organizations_update on public.organizations for update to authenticated
    using (id = (select app.active_org_id()) and (select app.may('organization:update')))
    with check (id = (select app.active_org_id()));
create policy organizations_service_select on public.organizations for select to spine_service
    using (id = (select app.service_org()));
create policy organizations_agent_select on public.organizations for select to spine_agent
    using (id = (select app.agent_org_id()));
grant select on public.organizations to spine_service, spine_agent;
-- Not its Stripe customer, which is the system's business alone.
grant select (id, name, slug, plan, branding, created_at, updated_at) on public.organizations to authenticated;
grant update (name, slug, branding) on public.organizations to authenticated;

-- Oneself always; colleagues as far as they belong to the active organisation.
create policy profiles_select on public.profiles for select to authenticated
    using (case when id = (select app.uid()) then true
                else exists (select from public.org_members m
                              where m.org_id = (select app.active_org_id()) and m.user_id = profiles.id)
                  or exists (select from public.org_consultants c
                              where c.org_id = (select app.active_org_id()) and c.user_id = profiles.id) end);
create policy profiles_update on public.profiles for update to authenticated
    using (id = (select app.uid())) with check (id = (select app.uid()));
grant select on public.profiles to authenticated;
grant update (full_name, phone, onboarding_complete) on public.profiles to authenticated;

create policy roles_select on public.roles for select to authenticated
    using (case when org_id is null then true else org_id = (select app.active_org_id()) end);
create policy roles_insert on public.roles for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('roles:create')));
create policy roles_update on public.roles for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('roles:update')))
    with check (org_id = (select app.active_org_id()));
create policy roles_delete on public.roles for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('roles:delete')));
grant select, insert, delete on public.roles to authenticated;
grant update (name, description) on public.roles to authenticated;

create policy permissions_select on public.permissions for select to authenticated
    using (case when org_id is null then true else org_id = (select app.active_org_id()) end);
-- The role must be the organisation's own: built-in roles are nobody's to widen.
create policy permissions_insert on public.permissions for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('roles:update')) and app.may(resource || ':' || action)
                and exists (select from public.roles r where r.id = role_id and r.org_id = permissions.org_id));
create policy permissions_delete on public.permissions for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('roles:update')));
grant select, insert, delete on public.permissions to authenticated;

create policy org_members_select on public.org_members for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('members:read')) then true else user_id = (select app.uid()) end);
-- No insert: adding somebody by id would show their profile to whoever guessed it. People join by their own consent.
create policy org_members_update on public.org_members for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('members:update')) and app.may_grant(role_id))
    with check (org_id = (select app.active_org_id()) and app.may_grant(role_id));
create policy org_members_delete on public.org_members for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('members:delete')) and app.may_grant(role_id));
grant select, delete on public.org_members to authenticated;
grant update (role_id) on public.org_members to authenticated;

create policy org_consultants_select on public.org_consultants for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('consultants:read')) then true else user_id = (select app.uid()) end);
create policy org_consultants_delete on public.org_consultants for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('consultants:delete')));
grant select, delete on public.org_consultants to authenticated;

create policy clients_select on public.clients for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('clients:read')) then true else id = any ((select app.my_client_ids())::uuid[]) end);
create policy clients_insert on public.clients for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('clients:create')));
create policy clients_update on public.clients for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('clients:update')))
    with check (org_id = (select app.active_org_id()));
grant select, insert on public.clients to authenticated;
grant update (name, email, phone, address, status) on public.clients to authenticated;

create policy client_consultants_select on public.client_consultants for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('clients:read')) then true else user_id = (select app.uid()) end);
create policy client_consultants_insert on public.client_consultants for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('clients:update')));
create policy client_consultants_delete on public.client_consultants for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('clients:update')));
grant select, insert, delete on public.client_consultants to authenticated;

create policy client_users_select on public.client_users for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('clients:read')) then true else user_id = (select app.uid()) end);
create policy client_users_delete on public.client_users for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('clients:update')));
grant select, delete on public.client_users to authenticated;

create policy user_sessions_select on public.user_sessions for select to authenticated
    using (user_id = (select app.uid()));
grant select on public.user_sessions to authenticated;

-- One chooses for one's own sessions only, and never an organisation one does not belong to: the helper checks it again.
create policy active_contexts_select on public.active_contexts for select to authenticated
    using (user_id = (select app.uid()));
grant select on public.active_contexts to authenticated;

create policy agents_select on public.agents for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:read')));
create policy agents_insert on public.agents for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('agents:create')) and app.may_grant(role_id));
create policy agents_update on public.agents for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:update')))
    with check (org_id = (select app.active_org_id()));
create policy agents_agent_select on public.agents for select to spine_agent
    using (org_id = (select app.agent_org_id()) and id = (select app.agent_id()));
create policy agents_service_select on public.agents for select to spine_service
    using (org_id = (select app.service_org()));
grant select, insert on public.agents to authenticated;
grant update (name, kind, status) on public.agents to authenticated;
grant select on public.agents to spine_agent, spine_service;

-- Never the hash: an admin sees that a token exists, until when, and revokes it.
create policy agent_tokens_select on public.agent_tokens for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:read')));
-- Once, and for good.
create policy agent_tokens_update on public.agent_tokens for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('agents:update')) and revoked_at is null)
    with check (org_id = (select app.active_org_id()) and revoked_at is not null);
grant select (id, org_id, agent_id, scopes, expires_at, revoked_at, created_at) on public.agent_tokens to authenticated;
grant update (revoked_at) on public.agent_tokens to authenticated;

create policy data_ownership_select on public.data_ownership for select to authenticated, spine_agent, spine_service using (true);
grant select on public.data_ownership to authenticated, spine_agent, spine_service;

-- updated_at ---------------------------------------------------------------------------------------------------------------

create trigger organizations_touch before update on public.organizations for each row execute function app.touch_updated_at();
create trigger profiles_touch before update on public.profiles for each row execute function app.touch_updated_at();
create trigger clients_touch before update on public.clients for each row execute function app.touch_updated_at();
create trigger agents_touch before update on public.agents for each row execute function app.touch_updated_at();

reset role;

-- Sign-up makes the profile ---------------------------------------------------------------------------------------------

create policy profiles_definer_insert on public.profiles for insert to spine_definer with check (true);
create policy profiles_definer_update on public.profiles for update to spine_definer using (true) with check (true);
grant insert, update on public.profiles to spine_definer;

set local role spine_definer;
create function app.profile_of_new_user() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    insert into public.profiles (id, email, phone) values (new.id, new.email, new.phone)
    on conflict (id) do update set email = excluded.email, phone = excluded.phone;
    return new;
end
$$;
grant execute on function app.profile_of_new_user() to public;

-- An organisation that nobody owns is one that nobody can ever put in order.
create function app.keep_an_owner() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if exists (select from public.organizations o where o.id = old.org_id)
       and not exists (select from public.org_members m
                        where m.org_id = old.org_id and m.role_id = '00000000-0000-7000-8000-000000000001') then
        raise exception 'an organisation needs an owner' using errcode = 'restrict_violation';
    end if;
    return null;
end
$$;
grant execute on function app.keep_an_owner() to public;
reset role;

create constraint trigger org_members_keep_an_owner after update or delete on public.org_members
    deferrable initially immediate for each row
    when (old.role_id = '00000000-0000-7000-8000-000000000001') execute function app.keep_an_owner();

alter table public.profiles add constraint profiles_id_fkey foreign key (id) references auth.users (id) on delete cascade;
create trigger spine_profile_of_new_user after insert or update of email, phone on auth.users
    for each row execute function app.profile_of_new_user();
