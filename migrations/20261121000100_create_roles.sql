-- Create the database roles, schema app and what every later migration builds on.
--
-- Locks:   none; nothing exists yet.
-- Rollout: first migration. Needs no more than Supabase's `postgres` role may do: create roles, schemas and extensions.
-- Undo:    drop schema app cascade, then the roles; they belong to the server, not to this database.

do $$
declare
    wanted text;
begin
    -- Roles belong to the server: another database of it may be creating them at this moment.
    perform pg_advisory_xact_lock(hashtext('spine roles'));
    foreach wanted in array array['spine_owner', 'spine_definer', 'spine_caller', 'spine_agent', 'spine_service'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            execute format('create role %I nologin', wanted);
        end if;
    end loop;
    -- Functions log in as this one. Its password is set by whoever operates the server, never by a migration.
    if not exists (select from pg_catalog.pg_roles where rolname = 'spine_functions') then
        create role spine_functions login noinherit connection limit -1;
    end if;
    alter role spine_functions set idle_in_transaction_session_timeout = '5s';
    alter role spine_functions set statement_timeout = '25s';
    alter role spine_functions set timezone = 'UTC';

    -- Whoever migrates acts as the owner and as the definer, and owns nothing itself.
    execute format('grant spine_owner, spine_definer to %I', current_user);
    -- A person inside a function keeps a person's policies, and cannot become what the Data API runs as.
    grant authenticated to spine_caller with inherit true, set false;
    -- Membership is the only right spine_functions has.
    grant spine_caller, spine_agent, spine_service to spine_functions with inherit false, set true;
end
$$;

create schema if not exists extensions;
do $$
begin
    if not exists (select from pg_catalog.pg_available_extensions where name = 'vector') then
        raise exception 'the extension "vector" is not installed on this server'
            using hint = 'Install pgvector: postgresql-<major>-pgvector on Debian and Ubuntu, pgvector elsewhere.';
    end if;
    create extension if not exists vector with schema extensions;
end
$$;

create schema app;
comment on schema app is 'Helpers and internals. API roles have no usage here; policies reach functions by identity, not by name.';
grant usage on schema app to spine_owner, spine_definer, spine_caller, spine_agent, spine_service;
grant create on schema app to spine_owner, spine_definer;
grant usage, create on schema public to spine_owner;
grant usage on schema public to spine_definer, spine_caller, spine_agent, spine_service;

-- A function is callable by nobody until a migration says by whom.
alter default privileges for role spine_owner revoke execute on functions from public;
alter default privileges for role spine_definer revoke execute on functions from public;

set local role spine_owner;

-- Time-ordered ids (RFC 9562, version 7). Postgres 18 has its own; 16 and 17 do not.
create function app.uuidv7() returns uuid language sql volatile set search_path = '' as $$
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                    placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
            52, 1), 53, 1), 'hex')::uuid
$$;
comment on function app.uuidv7() is 'A new UUID of version 7: milliseconds since 1970, then random bits.';
grant execute on function app.uuidv7() to public;

-- A header or claim is somebody's text: what is not a UUID is nothing, not an error.
create function app.as_uuid(value text) returns uuid language sql immutable set search_path = '' as $$
    select case when value ~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$' then value::uuid end
$$;

create function app.claim(name text) returns text language sql stable set search_path = '' as $$
    select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> name
$$;

-- Who the token is for. Not auth.uid(): on Supabase nobody but its own roles may reach into schema auth, and there a claim that
-- is no UUID is an error rather than nobody.
-- The body is bound when it is made, so that whoever asks needs no way into schema app.
create function app.uid() returns uuid language sql stable return app.as_uuid(app.claim('sub'));
comment on function app.uid() is 'The person whose claims this transaction runs with.';

-- A setting is '' once the transaction that set it has ended: '' must read as "nobody".
create function app.service_org() returns uuid language sql stable set search_path = '' as $$
    select app.as_uuid(current_setting('app.service_org', true))
$$;
comment on function app.service_org() is 'The one organisation a system transaction is confined to.';

create function app.touch_updated_at() returns trigger language plpgsql set search_path = '' as $$
begin
    new.updated_at := now();
    return new;
end
$$;

grant execute on function app.as_uuid(text), app.claim(text), app.uid(), app.service_org()
    to spine_definer, spine_caller, spine_agent, spine_service, authenticated, anon;

reset role;
