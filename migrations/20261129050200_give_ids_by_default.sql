-- Give rows that people add their ids by default alone, so that no id of another organisation's row can be tried.
--
-- An id that is taken is refused and a fresh one is not, whoever's row it is: so a chosen id tells whether a row exists that its
-- chooser may not see. Ids stay unique across organisations, because what is public is found by id alone. When a row was made is
-- not its maker's to say either.
--
-- The two functions that take an id, so that a retry makes nothing twice, make the row's own id from it and from who asks.
--
-- Locks:   none that wait for longer than a grant takes.
-- Rollout: contract. The Data API refuses an insert that names an id, and answers with the one that was given.
-- Undo:    grant insert of the columns again; the functions as they were in 20261121001100.

set local role spine_owner;

do $$
declare
    made record;
begin
    for made in
        select c.relname,
               string_agg(quote_ident(a.attname), ', ' order by a.attnum)
                   filter (where a.attname not in ('id', 'created_at', 'updated_at')) as chosen
          from pg_catalog.pg_class c
          join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
           and has_column_privilege('authenticated', c.oid, a.attnum, 'insert')
         group by c.relname
        having bool_or(a.attname in ('id', 'created_at', 'updated_at'))
    loop
        execute format('revoke insert on public.%I from authenticated', made.relname);
        execute format('grant insert (%s) on public.%I to authenticated', made.chosen, made.relname);
    end loop;
end
$$;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- Of version 8, like every id that is computed. Nobody finds a name that leads to an id they have in mind.
create function app.id_within(p_scope uuid, p_name uuid) returns uuid
    language sql immutable set search_path = '' as $$
    select encode(set_byte(set_byte(h.hash, 6, get_byte(h.hash, 6) & 15 | 128), 8, get_byte(h.hash, 8) & 63 | 128), 'hex')::uuid
      from (select substring(sha256(uuid_send(p_scope) || uuid_send(p_name)) for 16) as hash) h
$$;
comment on function app.id_within(uuid, uuid) is 'The id that a name stands for among the names of one person or organisation.';

create or replace function public.create_organization_with_context(name text, slug text default null, id uuid default null)
    returns table (org_id uuid, org_slug text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_user uuid := app.signed_in();
    v_id   uuid := case when id is null then app.uuidv7() else app.id_within(v_user, id) end;
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
            perform app.refuse('PT409', 'id_taken', 'You made an organisation with this id and do not own it any more; use a new one.');
        end if;
        perform app.remember_context(v_id, null);
        return;
    end if;
    if exists (select from public.audit_log a where a.org_id = v_id and a.resource_type = 'organizations') then
        perform app.refuse('PT409', 'id_taken', 'You made an organisation with this id, and it is gone; use a new one.');
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
    'Makes an organisation with the caller as its owner, and makes it the one their session works in. Repeating it with the same id makes nothing twice; the organisation''s own id is in the answer.';

create or replace function public.create_client_with_context(org_id uuid, name text, email text default null, phone text default null,
                                                  address text default null, id uuid default null) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_user uuid := app.signed_in();
    v_id   uuid := case when id is null then app.uuidv7() else app.id_within(org_id, id) end;
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
    -- A retry, or another client of the organisation's.
    if not exists (select from public.clients k where k.id = v_id and k.org_id = org_id and k.name = v_name) then
        perform app.refuse('PT409', 'id_taken', 'Another client was made with this id; use a new one.');
    end if;
    -- Staff see every client; a consultant only those they are assigned to. A retry assigns nobody: they may have been taken off since.
    insert into public.client_consultants (org_id, client_id, user_id, role)
    select c.org_id, v_id, c.user_id, 'lead' from public.org_consultants c where v_made and c.org_id = org_id and c.user_id = v_user;
    perform app.remember_context(org_id, v_id);
    return v_id;
end
$$;
comment on function public.create_client_with_context(uuid, text, text, text, text, uuid) is
    'Makes a client, assigns the caller if they are a consultant, and makes it the one their session works in. Repeating it with the same id makes nothing twice; the client''s own id is the answer.';

reset role;
revoke create on schema public from spine_definer;
