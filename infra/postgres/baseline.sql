-- What a Supabase project provides, for servers that are not Supabase.
--
-- Never applied to Supabase itself. Idempotent, since roles belong to the whole server and databases come and go. Only what
-- Spine's migrations and policies refer to is here; names, columns and behaviour are Supabase's.

do $$
declare
    wanted text;
begin
    -- Two databases of one server may be prepared at once; roles are shared between them.
    perform pg_advisory_xact_lock(hashtext('spine baseline roles'));
    foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            execute format('create role %I nologin noinherit', wanted);
        end if;
    end loop;
    -- Only a login that bypasses row-level security may give that; without it this role, as which nothing of Spine's acts, sees no row.
    if not (select rolbypassrls from pg_catalog.pg_roles where rolname = 'service_role')
       and (select rolsuper or rolbypassrls from pg_catalog.pg_roles where rolname = current_user) then
        alter role service_role bypassrls;
    end if;
    -- The auth server, which calls the access-token hook.
    if not exists (select from pg_catalog.pg_roles where rolname = 'supabase_auth_admin') then
        create role supabase_auth_admin nologin noinherit;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'authenticator') then
        create role authenticator nologin noinherit;
        grant anon, authenticated, service_role to authenticator;
    end if;
end
$$;

create schema if not exists extensions;
grant usage on schema extensions to anon, authenticated, service_role;

-- Supabase also grants the API roles everything that is made in public from then on. Not here, where the database may be shared with
-- tables that are not Spine's; Spine's own are spine_owner's, and open to nobody on either.
grant usage on schema public to anon, authenticated, service_role;

-- auth ----------------------------------------------------------------------------------------------------------------

create schema if not exists auth;
grant usage on schema auth to anon, authenticated, service_role;

create table if not exists auth.users (
    id                 uuid primary key,
    email              text,
    phone              text,
    raw_app_meta_data  jsonb,
    raw_user_meta_data jsonb,
    is_anonymous       boolean     not null default false,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now()
);

create table if not exists auth.sessions (
    id         uuid primary key,
    user_id    uuid        not null references auth.users (id) on delete cascade,
    created_at timestamptz not null default now(),
    not_after  timestamptz
);

create or replace function auth.jwt() returns jsonb language sql stable as $$
    select coalesce(nullif(current_setting('request.jwt.claim', true), ''),
                    nullif(current_setting('request.jwt.claims', true), ''))::jsonb
$$;

create or replace function auth.uid() returns uuid language sql stable as $$
    select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;

create or replace function auth.role() returns text language sql stable as $$
    select coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
                    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
$$;

-- storage -------------------------------------------------------------------------------------------------------------

create schema if not exists storage;
grant usage on schema storage to anon, authenticated, service_role;

create table if not exists storage.buckets (
    id                 text primary key,
    name               text        not null unique,
    owner_id           text,
    public             boolean     not null default false,
    file_size_limit    bigint,
    allowed_mime_types text[],
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now()
);

create table if not exists storage.objects (
    id            uuid primary key     default gen_random_uuid(),
    bucket_id     text references storage.buckets (id),
    name          text,
    owner_id      text,
    metadata      jsonb,
    user_metadata jsonb,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),
    unique (bucket_id, name)
);
alter table storage.objects enable row level security;
grant all on storage.objects to anon, authenticated, service_role;

create or replace function storage.foldername(name text) returns text[] language sql immutable as $$
    select (string_to_array(name, '/'))[1 : array_length(string_to_array(name, '/'), 1) - 1]
$$;

-- realtime ------------------------------------------------------------------------------------------------------------

create schema if not exists realtime;
grant usage on schema realtime to anon, authenticated, service_role;

-- Partitioned by day, and without a partition: Realtime makes those of a few days when a client connects, and drops them later.
do $$
declare
    v_policies text[];
    v_policy   text;
begin
    -- An earlier baseline made it one table. What was sent is gone within days anyway; who may hear it stays.
    if exists (select from pg_catalog.pg_class where oid = to_regclass('realtime.messages') and relkind = 'r') then
        select array_agg(format('create policy %I on realtime.messages as %s for %s to %s', policyname, permissive, cmd,
                                (select string_agg(quote_ident(r), ', ') from unnest(roles) r))
                         || coalesce(' using (' || qual || ')', '') || coalesce(' with check (' || with_check || ')', ''))
          into v_policies from pg_catalog.pg_policies where schemaname = 'realtime' and tablename = 'messages';
        drop table realtime.messages;
    end if;
    create table if not exists realtime.messages (
        id          uuid        not null default gen_random_uuid(),
        topic       text        not null,
        extension   text        not null,
        payload     jsonb,
        event       text,
        private     boolean              default false,
        inserted_at timestamp   not null default now(),
        updated_at  timestamp   not null default now(),
        primary key (id, inserted_at)
    ) partition by range (inserted_at);
    foreach v_policy in array coalesce(v_policies, '{}') loop
        execute v_policy;
    end loop;
end
$$;
alter table realtime.messages enable row level security;
grant select, insert, update on realtime.messages to anon, authenticated, service_role;

create or replace function realtime.topic() returns text language sql stable as $$
    select nullif(current_setting('realtime.topic', true), '')
$$;

-- Who listens to a private topic is asked by the policies of messages. What cannot be kept is lost with a warning.
create or replace function realtime.send(payload jsonb, event text, topic text, private boolean default true) returns void
    language plpgsql as $$
declare
    v_id uuid := gen_random_uuid();
begin
    perform set_config('realtime.topic', topic, true);
    insert into realtime.messages (id, payload, event, topic, private, extension)
    values (v_id, case when payload ? 'id' then payload else jsonb_set(payload, '{id}', to_jsonb(v_id)) end, event, topic, private, 'broadcast');
exception when others then
    raise warning 'WarnSendingBroadcastMessage: %', sqlerrm;
end
$$;
