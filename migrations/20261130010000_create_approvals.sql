-- Create approvals: one gate for what a person must approve before it is done, and the functions that alone move it.
--
-- Locks:   roles, permissions and data_ownership exclusively, for an insert each; accounting_writes exclusively, for the moment that dropping
--          columns takes; client_accounting, org_members, org_consultants and client_users for the moment that a policy or a foreign key takes.
-- Rollout: contract. Nothing that runs reads or sets the columns that accounting_writes loses.
-- Undo:    drop the functions and tables of this file, and give accounting_writes its columns again.

set local role spine_owner;

-- Who may ------------------------------------------------------------------------------------------------------------------

alter table public.roles no force row level security;
insert into public.roles (id, name, description) values
    ('00000000-0000-7000-8000-000000000008', 'accountant', 'Reads clients and books, and approves what is written to books');
alter table public.roles force row level security;

alter table public.permissions no force row level security;
insert into public.permissions (role_id, resource, action)
select ('00000000-0000-7000-8000-00000000000' || p.role)::uuid, p.resource, p.action
  from (values
    (8, 'accounting', 'read'), (8, 'accounting', 'propose'), (8, 'accounting', 'approve'), (8, 'clients', 'read'),
    (8, 'integrations', 'read'), (8, 'submissions', 'read_all'), (8, 'templates', 'read'),
    (5, 'accounting', 'propose'), (7, 'accounting', 'propose')) as p (role, resource, action);
alter table public.permissions force row level security;

-- Tables -------------------------------------------------------------------------------------------------------------------

create table public.approvals (
    id                uuid        primary key default app.uuidv7(),
    org_id            uuid        not null references public.organizations (id) on delete cascade,
    kind              text        not null,
    subject_table     text        not null,
    subject_id        uuid        not null,
    client_id         uuid,
    payload_digest    bytea       not null,
    status            text        not null default 'proposed',
    proposed_by       uuid        references public.profiles (id) on delete set null,
    proposed_by_agent uuid,
    decided_by        uuid        references public.profiles (id) on delete set null,
    decided_at        timestamptz,
    reason            text,
    policy_version    integer,
    first_step_at     timestamptz,
    first_step_by     uuid        references public.profiles (id) on delete set null,
    expires_at        timestamptz not null,
    overdue_at        timestamptz,
    began_at          timestamptz,
    ended_at          timestamptz,
    execution         text,
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),

    constraint approvals_org_id_id_key unique (org_id, id),
    constraint approvals_kind_check check (kind in ('voucher', 'message', 'erasure')),
    constraint approvals_subject_check check (subject_table ~ '^[a-z_]{1,63}$'),
    constraint approvals_digest_check check (length(payload_digest) = 32),
    constraint approvals_status_check
        check (status in ('proposed', 'refused', 'expired', 'approved', 'overdue', 'executing', 'unknown', 'executed', 'failed')),
    constraint approvals_decided_check check (status in ('proposed', 'expired') or decided_at is not null),
    constraint approvals_began_check check (status not in ('executing', 'unknown', 'executed', 'failed') or began_at is not null),
    constraint approvals_text_check check (length(reason) <= 2000 and length(execution) <= 200),
    constraint approvals_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade
);
comment on table public.approvals is
    'What a person must approve before it is done: who proposed it, who decided, until when, and what came of it. Moved by functions alone.';
comment on column public.approvals.payload_digest is 'SHA-256 of the subject''s payload as jsonb writes it. What is done is what this was approved for.';
comment on column public.approvals.status is
    'proposed; then refused, expired or approved. approved: overdue where nothing was done about it for an hour; executing once it has begun, which happens once; unknown where the provider did not answer; executed or failed at the end.';
comment on column public.approvals.first_step_at is 'When the proposer approved their own proposal for the first time; the second time counts, ten minutes later.';
comment on column public.approvals.execution is 'What was made of it, as the provider names it.';
create index approvals_org_id_created_at_idx on public.approvals (org_id, created_at desc);
create index approvals_org_id_client_id_idx on public.approvals (org_id, client_id);
create index approvals_org_id_subject_idx on public.approvals (org_id, subject_id);
create index approvals_proposed_by_idx on public.approvals (proposed_by);
create index approvals_decided_by_idx on public.approvals (decided_by);
create index approvals_first_step_by_idx on public.approvals (first_step_by);
-- One that is open at a time. What has ended, expired included, does not stand in the way of the next.
create unique index approvals_open_key on public.approvals (org_id, subject_table, subject_id)
    where status in ('proposed', 'approved', 'overdue', 'executing', 'unknown');
-- What the sweep looks for each minute.
create index approvals_ends_idx on public.approvals (expires_at) where status in ('proposed', 'approved', 'overdue');
create index approvals_overdue_idx on public.approvals (decided_at) where status = 'approved';

create table public.approval_settings (
    org_id         uuid        primary key references public.organizations (id) on delete cascade,
    own_proposals  boolean     not null default false,
    policy_version integer     not null default 1,
    set_by         uuid        references public.profiles (id) on delete set null,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now()
);
comment on table public.approval_settings is
    'Whether people of an organisation may approve what they proposed themselves, in two steps. Without a row they may not.';
comment on column public.approval_settings.policy_version is 'Rises with each change; what was approved under an earlier version is not executed.';
create index approval_settings_set_by_idx on public.approval_settings (set_by);

-- What is decided, and what came of it, stands in approvals alone; a write is what it is from the moment it is proposed.
drop trigger accounting_writes_audit_insert on public.accounting_writes;
drop trigger accounting_writes_audit_update on public.accounting_writes;
drop trigger accounting_writes_audit_delete on public.accounting_writes;
alter table public.accounting_writes
    drop column status, drop column proposed_by, drop column approved_by, drop column approved_at, drop column approval_expires_at,
    drop column executed_at, drop column external_ref,
    add column external_tenant_id text not null,
    add constraint accounting_writes_org_id_id_key unique (org_id, id),
    add constraint accounting_writes_external_tenant_id_check check (length(external_tenant_id) between 1 and 100);
comment on table public.accounting_writes is 'What is to be written to a client''s books. What is decided about it, and what came of it, approvals says.';
comment on column public.accounting_writes.external_tenant_id is 'The company whose books they are, as its provider calls it, when this was proposed.';
call app.audit_table('accounting_writes', 'id', 'client_id,kind');
drop policy accounting_writes_service_insert on public.accounting_writes;
revoke insert on public.accounting_writes from spine_service;

-- Who sees and writes --------------------------------------------------------------------------------------------------------

do $$
declare
    made text;
begin
    foreach made in array array['approvals', 'approval_settings'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('create policy %I on public.%I for select to spine_definer using (true)', made || '_definer_select', made);
        execute format('create policy %I on public.%I for insert to spine_definer with check (true)', made || '_definer_insert', made);
        execute format('create policy %I on public.%I for update to spine_definer using (true)', made || '_definer_update', made);
        execute format('grant select on public.%I to spine_service, authenticated', made);
        execute format('grant select, insert, update on public.%I to spine_definer', made);
        execute format('create trigger %I before update on public.%I for each row execute function app.touch_updated_at()', made || '_touch', made);
    end loop;
end
$$;
create policy approvals_select on public.approvals for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('accounting:read')) then kind = 'voucher'
                    else kind = 'voucher' and client_id = any ((select app.my_consulted_client_ids())::uuid[]) end);
create policy approval_settings_select on public.approval_settings for select to authenticated
    using (org_id = (select app.active_org_id()));
call app.audit_table('approvals', 'id',
    'kind,subject_table,subject_id,client_id,status,proposed_by,proposed_by_agent,decided_by,decided_at,policy_version,first_step_at,first_step_by,expires_at,overdue_at,began_at,ended_at,execution');
call app.audit_table('approval_settings', 'org_id', 'own_proposals,policy_version,set_by');

-- What the functions below read and write.
create policy accounting_writes_definer_select on public.accounting_writes for select to spine_definer using (true);
create policy accounting_writes_definer_insert on public.accounting_writes for insert to spine_definer with check (true);
grant select, insert on public.accounting_writes to spine_definer;
create policy client_accounting_definer_select on public.client_accounting for select to spine_definer using (true);
create policy org_integrations_definer_select on public.org_integrations for select to spine_definer using (true);
grant select on public.client_accounting to spine_definer;
grant select (org_id, provider, status, external_tenant_id) on public.org_integrations to spine_definer;

alter table public.data_ownership no force row level security;
delete from public.data_ownership
 where table_name = 'accounting_writes' and column_name in ('status', 'proposed_by', 'approved_by', 'approved_at', 'approval_expires_at');
insert into public.data_ownership (table_name, column_name, owner) values
    ('approvals', null, 'system'), ('approval_settings', null, 'human');
insert into public.data_ownership (table_name, column_name, owner)
select 'approvals', c.name, 'human' from unnest(array['status', 'proposed_by', 'decided_by', 'decided_at', 'reason', 'first_step_at', 'first_step_by']) c (name);
alter table public.data_ownership force row level security;

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- Whose changes an entry is about: deciding and setting too.
create or replace function app.audit_entry(p_table text, p_was jsonb, p_is jsonb, p_key text[], p_told text[],
                                out org_id uuid, out record_id text, out changed jsonb, out old_values jsonb, out new_values jsonb,
                                out subject_ids uuid[])
    language sql immutable set search_path = '' as $$
    select case when p_table = 'organizations' then (r.row ->> 'id')::uuid else (r.row ->> 'org_id')::uuid end,
           (select string_agg(r.row ->> k.name, '/' order by k.place) from unnest(p_key) with ordinality k (name, place)),
           (select coalesce(jsonb_agg(c.key order by c.key), '[]') from jsonb_each(r.row) c
             where c.key <> 'updated_at' and (p_was is null or p_is is null or c.value is distinct from p_was -> c.key)),
           (select jsonb_object_agg(o.key, o.value) from jsonb_each(p_was) o where o.key = any (p_key || p_told)),
           (select jsonb_object_agg(n.key, n.value) from jsonb_each(p_is) n where n.key = any (p_key || p_told)),
           -- Whom it was taken from as well.
           array(select distinct (v.row ->> s.name)::uuid
                   from (values (p_was), (p_is)) v (row),
                        unnest(array['user_id', 'assigned_to', 'created_by', 'reviewer_id', 'accepted_by', 'invited_by', 'author_id',
                                     'approved_by', 'proposed_by'] || case p_table when 'profiles' then array['id'] when 'approvals' then array['decided_by', 'first_step_by']
                                                          when 'approval_settings' then array['set_by'] else '{}' end) s (name)
                  where v.row ->> s.name is not null)
      from (select coalesce(p_is, p_was) as row) r
$$;

-- What everything below stands on -----------------------------------------------------------------------------------------------

create function app.payload_digest(p_payload jsonb) returns bytea language sql stable set search_path = '' as $$
    select sha256(convert_to(p_payload::text, 'UTF8'))
$$;
comment on function app.payload_digest(jsonb) is 'SHA-256 of a payload as jsonb writes it, which is one way only.';

create function app.approval_right(p_kind text) returns text language sql immutable set search_path = '' as $$
    select case p_kind when 'voucher' then 'accounting:approve' when 'message' then 'social:approve' when 'erasure' then 'privacy:approve' end
$$;
comment on function app.approval_right(text) is 'What one must be allowed to decide about approvals of a kind.';

create function app.person_may(p_org uuid, p_user uuid, p_wanted text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select exists (
        select from (select m.role_id from public.org_members m where m.org_id = p_org and m.user_id = p_user
                     union all
                     select '00000000-0000-7000-8000-000000000005' from public.org_consultants c where c.org_id = p_org and c.user_id = p_user
                     union all
                     select '00000000-0000-7000-8000-000000000006' from public.client_users u where u.org_id = p_org and u.user_id = p_user) held
          join public.permissions p on p.role_id = held.role_id and (p.org_id is null or p.org_id = p_org)
         where p.resource in (split_part(p_wanted, ':', 1), '*') and p.action in (split_part(p_wanted, ':', 2), '*'))
$$;
comment on function app.person_may(uuid, uuid, text) is 'Whether a person may do something in an organisation now, wherever they are signed in.';

-- A guard against functions that are wrong: an approval goes forward only, and stays what it was proposed as.
create function app.guard_approval() returns trigger language plpgsql set search_path = '' as $$
begin
    if (new.id, new.org_id, new.kind, new.subject_table, new.subject_id, new.payload_digest, new.proposed_by_agent, new.expires_at, new.created_at)
       is distinct from
       (old.id, old.org_id, old.kind, old.subject_table, old.subject_id, old.payload_digest, old.proposed_by_agent, old.expires_at, old.created_at)
       or new.client_id is distinct from old.client_id then
        raise exception 'an approval stays what it was proposed as' using errcode = 'integrity_constraint_violation';
    end if;
    if new.status <> old.status and old.status || ' ' || new.status <> all (array[
            'proposed approved', 'proposed refused', 'proposed expired', 'approved refused', 'approved expired', 'approved overdue',
            'overdue refused', 'overdue expired', 'approved executing', 'overdue executing', 'executing executed', 'executing failed',
            'executing unknown', 'unknown executing', 'unknown executed', 'unknown failed']) then
        raise exception 'an approval does not go from % to %', old.status, new.status using errcode = 'integrity_constraint_violation';
    end if;
    return new;
end
$$;
grant execute on function app.guard_approval() to spine_owner;

-- Proposing -----------------------------------------------------------------------------------------------------------------

-- Opens an approval of a subject, in whose place an expired one does not stand. For the functions that make subjects.
create function app.open_approval(p_org uuid, p_kind text, p_table text, p_subject uuid, p_client uuid, p_digest bytea,
                                  p_user uuid, p_agent uuid, p_lasts interval) returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_id uuid := app.uuidv7();
begin
    if p_lasts not between interval '1 minute' and interval '31 days' then
        perform app.refuse('PT422', 'expiry_invalid', 'A proposal lasts from a minute to 31 days.');
    end if;
    update public.approvals a set status = 'expired', ended_at = now()
     where a.org_id = p_org and a.subject_table = p_table and a.subject_id = p_subject and a.status in ('proposed', 'approved', 'overdue')
       and a.expires_at <= clock_timestamp();
    insert into public.approvals (id, org_id, kind, subject_table, subject_id, client_id, payload_digest, proposed_by, proposed_by_agent, expires_at)
    values (v_id, p_org, p_kind, p_table, p_subject, p_client, p_digest, p_user, p_agent, now() + p_lasts)
    on conflict (org_id, subject_table, subject_id) where status in ('proposed', 'approved', 'overdue', 'executing', 'unknown') do nothing;
    if not found then
        perform app.refuse('PT409', 'approval_open', 'This is proposed already, and that proposal is open.');
    end if;
    return v_id;
end
$$;
comment on function app.open_approval(uuid, text, text, uuid, uuid, bytea, uuid, uuid, interval) is 'Opens an approval of what a function has just made.';

create function public.propose_accounting_write(client_id uuid, kind text, payload jsonb, lasts interval default '7 days') returns uuid
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
declare
    v_role   text    := current_setting('role');
    v_org    uuid    := app.current_org_id();
    v_user   uuid    := case when v_role in ('authenticated', 'spine_caller') then app.signed_in() end;
    v_agent  uuid    := case when v_role = 'spine_agent' then app.agent_id() end;
    v_tenant text;
    v_id     uuid    := app.uuidv7();
begin
    if v_org is null or coalesce(v_user, v_agent) is null
       or not (case when v_agent is null then app.may('accounting:propose') else app.agent_may('accounting:propose') end) then
        perform app.refuse('PT403', 'proposal_not_allowed', 'Proposing what is written to books takes the right accounting:propose.');
    end if;
    if not exists (select from public.clients c where c.org_id = v_org and c.id = propose_accounting_write.client_id and c.status = 'active')
       or v_user is not null and not app.may('accounting:read')
          and not coalesce(propose_accounting_write.client_id = any (app.my_consulted_client_ids()), false) then
        perform app.refuse('PT404', 'client_not_found', 'There is no such client, or it is archived.');
    end if;
    if kind is distinct from 'voucher' then
        perform app.refuse('PT422', 'kind_unknown', 'A voucher can be proposed.');
    end if;
    if jsonb_typeof(payload) is distinct from 'object' or pg_column_size(payload) > 262144 then
        perform app.refuse('PT422', 'payload_invalid', 'A payload is an object of at most 256 KiB.');
    end if;
    select i.external_tenant_id into v_tenant from public.org_integrations i
     where i.org_id = v_org and i.provider = 'fortnox' and i.status = 'connected';
    if v_tenant is null then
        perform app.refuse('PT409', 'not_connected', 'Fortnox is not connected; an admin connects it first.');
    end if;
    insert into public.accounting_writes (id, org_id, client_id, kind, payload, payload_hash, external_tenant_id)
    values (v_id, v_org, propose_accounting_write.client_id, kind, payload, app.payload_digest(payload), v_tenant);
    return app.open_approval(v_org, 'voucher', 'accounting_writes', v_id, propose_accounting_write.client_id, app.payload_digest(payload),
                             v_user, v_agent, lasts);
end
$$;
comment on function public.propose_accounting_write(uuid, text, jsonb, interval) is
    'Proposes to write something to a client''s books, for another person to approve. The id of the approval.';

-- Deciding ------------------------------------------------------------------------------------------------------------------

-- The approval, locked, if the person may see it and decide about it.
create function app.approval_to_decide(p_id uuid) returns public.approvals
    language plpgsql volatile security definer set search_path = '' as $$
declare
    a public.approvals;
begin
    if current_setting('role') not in ('authenticated', 'spine_caller') then
        raise exception 'people decide' using errcode = 'insufficient_privilege';
    end if;
    perform app.signed_in();
    select * into a from public.approvals x where x.id = p_id and x.org_id = app.active_org_id() for update;
    -- One that does not exist, another organisation's, one of a client that is not theirs: the same answer.
    if a.id is null
       or not (app.may(app.approval_right(a.kind))
               or a.kind = 'voucher' and (app.may('accounting:read') or coalesce(a.client_id = any (app.my_consulted_client_ids()), false))) then
        perform app.refuse('PT404', 'approval_not_found', 'There is no such approval.');
    end if;
    return a;
end
$$;

create function public.approve(id uuid, digest text) returns text
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    a        public.approvals := app.approval_to_decide(approve.id);
    v_user   uuid             := app.uid();
    v_own    boolean;
    v_policy integer;
begin
    if not app.may(app.approval_right(a.kind)) then
        perform app.refuse('PT403', 'approval_not_allowed', 'Approving this takes the right ' || app.approval_right(a.kind) || '.');
    end if;
    -- Said twice, it is one decision.
    if a.status in ('approved', 'overdue', 'executing', 'unknown', 'executed', 'failed') and a.decided_by = v_user then
        return a.status;
    end if;
    if a.status <> 'proposed' then
        perform app.refuse('PT409', 'approval_decided', format('This is %s and not open for a decision.', a.status));
    end if;
    if a.expires_at <= clock_timestamp() then
        perform app.refuse('PT409', 'approval_expired', 'The time to decide about this is over; it can be proposed again.');
    end if;
    -- What was shown is what is approved.
    if a.payload_digest is distinct from (case when digest ~ '^[0-9a-f]{64}$' then decode(digest, 'hex') end) then
        perform app.refuse('PT409', 'payload_changed', 'This is not what was proposed; read it again and decide then.');
    end if;
    select s.own_proposals, s.policy_version into v_own, v_policy from public.approval_settings s where s.org_id = a.org_id for share;
    if a.proposed_by = v_user then
        if v_own is not true then
            perform app.refuse('PT403', 'own_proposal', 'Somebody else decides about what you proposed.');
        end if;
        if a.first_step_by is distinct from v_user then
            update public.approvals x set first_step_at = now(), first_step_by = v_user where x.id = a.id;
            return 'proposed';
        end if;
        if a.first_step_at > clock_timestamp() - interval '10 minutes' then
            perform app.refuse('PT409', 'second_step_too_early',
                               'Your own proposal is approved in two steps, ten minutes apart; come back after that.');
        end if;
    end if;
    update public.approvals x
       set status = 'approved', decided_by = v_user, decided_at = now(), policy_version = coalesce(v_policy, 0)
     where x.id = a.id;
    return 'approved';
end
$$;
comment on function public.approve(uuid, text) is
    'Approves what was proposed, as one person; `digest` is its payload''s in hex, as it was shown. What it is then.';

create function public.refuse(id uuid, reason text default null) returns text
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    a      public.approvals := app.approval_to_decide(refuse.id);
    v_user uuid             := app.uid();
begin
    -- The proposer takes it back; the others decide.
    if a.proposed_by is distinct from v_user and not app.may(app.approval_right(a.kind)) then
        perform app.refuse('PT403', 'approval_not_allowed', 'Refusing this takes the right ' || app.approval_right(a.kind) || '.');
    end if;
    if a.status = 'refused' and a.decided_by = v_user then
        return a.status;
    end if;
    if a.status not in ('proposed', 'approved', 'overdue') then
        perform app.refuse('PT409', 'approval_decided', format('This is %s and not open for a decision.', a.status));
    end if;
    if length(refuse.reason) > 2000 then
        perform app.refuse('PT422', 'reason_too_long', 'A reason has at most 2,000 characters.');
    end if;
    update public.approvals x
       set status = 'refused', decided_by = v_user, decided_at = now(), reason = refuse.reason, ended_at = now()
     where x.id = a.id;
    return 'refused';
end
$$;
comment on function public.refuse(uuid, text) is 'Refuses what was proposed or approved and has not begun, as one person; a proposer takes it back.';

create function public.decide_approvals(decisions jsonb) returns table (id uuid, status text, code text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    d record;
begin
    if jsonb_typeof(decisions) is distinct from 'array' or jsonb_array_length(decisions) not between 1 and 200 then
        perform app.refuse('PT422', 'decisions_invalid', 'Decisions are a list of 1 to 200.');
    end if;
    for d in select x.id, x.decision, x.digest, x.reason
               from jsonb_to_recordset(decisions) as x (id uuid, decision text, digest text, reason text) loop
        decide_approvals.id := d.id;
        decide_approvals.status := null;
        decide_approvals.code := null;
        -- Each is a decision of its own: one that is not possible leaves the others as they are.
        begin
            decide_approvals.status := case d.decision when 'approve' then public.approve(d.id, d.digest)
                                                       when 'refuse' then public.refuse(d.id, d.reason) end;
            if decide_approvals.status is null then
                decide_approvals.code := 'decision_unknown';
            end if;
        exception when sqlstate 'PT403' or sqlstate 'PT404' or sqlstate 'PT409' or sqlstate 'PT422' then
            decide_approvals.code := sqlerrm;
        end;
        return next;
    end loop;
end
$$;
comment on function public.decide_approvals(jsonb) is
    'Decides about several: [{"id","decision": "approve"|"refuse","digest","reason"}]. What each is then, or the code of why it was not decided.';

create function public.allow_own_approvals(allow boolean) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_user uuid := app.signed_in();
    v_org  uuid := app.active_org_id();
begin
    if v_org is null or not exists (select from public.org_members m
                                     where m.org_id = v_org and m.user_id = v_user and m.role_id = '00000000-0000-7000-8000-000000000001') then
        perform app.refuse('PT403', 'owner_only', 'Only an owner says whether people may approve what they proposed themselves.');
    end if;
    insert into public.approval_settings as s (org_id, own_proposals, policy_version, set_by) values (v_org, coalesce(allow, false), 1, v_user)
    on conflict (org_id) do update
       set own_proposals = excluded.own_proposals, policy_version = s.policy_version + 1, set_by = excluded.set_by
     where s.own_proposals <> excluded.own_proposals;
    return coalesce(allow, false);
end
$$;
comment on function public.allow_own_approvals(boolean) is
    'An owner lets people of the organisation approve their own proposals, in two steps, or forbids it. What was approved before is not executed.';

-- Executing -----------------------------------------------------------------------------------------------------------------

-- Begins to do what was approved, once. Every condition is in the statement that takes the approval, as it is at that moment; `refused` says
-- which one does not hold: not_found, not_approved, expired, payload_changed, client_changed, writing_not_allowed, right_revoked,
-- policy_changed, not_connected.
create function app.begin_execution(p_id uuid, out payload jsonb, out client_id uuid, out external_tenant_id text, out refused text)
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_column
declare
    v_org uuid := app.service_org();
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system executes, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    update public.approvals a
       set status = 'executing', began_at = clock_timestamp()
      from public.accounting_writes w
      join public.client_accounting c on c.org_id = w.org_id and c.client_id = w.client_id and c.provider = 'fortnox'
      join public.org_integrations i on i.org_id = w.org_id and i.provider = 'fortnox'
     where a.id = p_id and a.org_id = v_org and a.kind = 'voucher' and a.status in ('approved', 'overdue')
       and a.expires_at > clock_timestamp()
       and a.subject_table = 'accounting_writes' and w.org_id = a.org_id and w.id = a.subject_id and w.client_id = a.client_id
       and app.payload_digest(w.payload) = a.payload_digest
       and c.can_write and c.fortnox_write_approved_at <= clock_timestamp()
       and app.person_may(a.org_id, a.decided_by, 'accounting:approve')
       and a.policy_version = coalesce((select s.policy_version from public.approval_settings s where s.org_id = a.org_id), 0)
       and i.status = 'connected' and i.external_tenant_id = w.external_tenant_id
    returning w.payload, w.client_id, w.external_tenant_id into payload, client_id, external_tenant_id;
    if found then
        return;
    end if;
    select case when a.status not in ('approved', 'overdue') then 'not_approved'
                when a.expires_at <= clock_timestamp() then 'expired'
                when w.id is null or w.client_id is distinct from a.client_id then 'client_changed'
                when app.payload_digest(w.payload) <> a.payload_digest then 'payload_changed'
                when c.client_id is null or not c.can_write or c.fortnox_write_approved_at is null then 'writing_not_allowed'
                when not coalesce(app.person_may(a.org_id, a.decided_by, 'accounting:approve'), false) then 'right_revoked'
                when a.policy_version <> coalesce((select s.policy_version from public.approval_settings s where s.org_id = a.org_id), 0) then 'policy_changed'
                else 'not_connected' end
      into refused
      from public.approvals a
      left join public.accounting_writes w on w.org_id = a.org_id and w.id = a.subject_id
      left join public.client_accounting c on c.org_id = a.org_id and c.client_id = a.client_id and c.provider = 'fortnox'
     where a.id = p_id and a.org_id = v_org and a.kind = 'voucher';
    refused := coalesce(refused, 'not_found');
end
$$;
comment on function app.begin_execution(uuid) is 'Begins to do what a person approved, if it still may be done, and returns what that is. Once.';

-- Says what came of what was begun: executed, with the name that the provider gave it; failed; or unknown, where it did not answer.
create function app.end_execution(p_id uuid, p_status text, p_execution text) returns boolean
    language plpgsql volatile security definer set search_path = '' as $$
begin
    if current_setting('role') <> 'spine_service' then
        raise exception 'the system executes' using errcode = 'insufficient_privilege';
    end if;
    update public.approvals a
       set status = p_status, execution = coalesce(p_execution, a.execution),
           ended_at = case when p_status in ('executed', 'failed') then clock_timestamp() end
     where a.id = p_id and a.org_id = app.service_org() and a.status in ('executing', 'unknown') and p_status in ('executed', 'failed', 'unknown');
    return found;
end
$$;
comment on function app.end_execution(uuid, text, text) is 'Says what came of an execution: executed, failed or unknown. False if it was not begun or has ended.';

-- What time does to approvals of one organisation: those whose time is over expire, and those approved an hour ago are overdue.
create function app.age_approvals(out expired integer, out overdue integer)
    language plpgsql volatile security definer set search_path = '' as $$
declare
    v_org uuid := app.service_org();
begin
    if current_setting('role') <> 'spine_service' or v_org is null then
        raise exception 'the system looks after approvals, in one organisation' using errcode = 'insufficient_privilege';
    end if;
    update public.approvals a set status = 'expired', ended_at = now()
     where a.org_id = v_org and a.status in ('proposed', 'approved', 'overdue') and a.expires_at <= now();
    get diagnostics expired = row_count;
    update public.approvals a set status = 'overdue', overdue_at = now()
     where a.org_id = v_org and a.status = 'approved' and a.decided_at <= now() - interval '1 hour';
    get diagnostics overdue = row_count;
end
$$;
comment on function app.age_approvals() is 'Ends what expired and marks what was approved an hour ago and not begun, in one organisation. How many of each.';

create function app.ageing_approvals() returns setof uuid
    language sql stable security definer set search_path = '' as $$
    select a.org_id from public.approvals a where a.status in ('proposed', 'approved', 'overdue') and a.expires_at <= now()
    union
    select a.org_id from public.approvals a where a.status = 'approved' and a.decided_at <= now() - interval '1 hour'
$$;
comment on function app.ageing_approvals() is 'Organisations in which time does something to an approval.';

grant execute on function app.payload_digest(jsonb) to spine_service;
grant execute on function public.propose_accounting_write(uuid, text, jsonb, interval) to authenticated, spine_caller, spine_agent;
grant execute on function public.approve(uuid, text), public.refuse(uuid, text), public.decide_approvals(jsonb), public.allow_own_approvals(boolean)
    to authenticated, spine_caller;
grant execute on function app.begin_execution(uuid), app.end_execution(uuid, text, text), app.age_approvals(), app.ageing_approvals() to spine_service;

reset role;
revoke create on schema public from spine_definer;
set local role spine_owner;

create trigger approvals_guard before update on public.approvals for each row execute function app.guard_approval();

reset role;
