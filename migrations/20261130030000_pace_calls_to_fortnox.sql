-- Pace calls to Fortnox: at most 25 in any window of five seconds for an organisation, over all processes, shared between reads and writes.
--
-- Locks:   data_ownership exclusively, for one insert.
-- Rollout: expand.
-- Undo:    drop the functions and tables of this file, and delete their rows in data_ownership.

set local role spine_owner;

create table public.fortnox_pace (
    org_id            uuid        primary key references public.organizations (id) on delete cascade,
    read_waits_until  timestamptz not null default '-infinity',
    write_waits_until timestamptz not null default '-infinity'
);
comment on table public.fortnox_pace is 'Whether reads or writes at Fortnox wait for a slot. Its row is locked while a slot is taken.';
comment on column public.fortnox_pace.read_waits_until is 'A read was refused a slot and will ask again before this time.';

create table public.fortnox_call_slots (
    org_id  uuid        not null references public.fortnox_pace (org_id) on delete cascade,
    slot    smallint    not null,
    side    text,
    token   uuid,
    free_at timestamptz not null default '-infinity',
    primary key (org_id, slot),
    constraint fortnox_call_slots_slot_check check (slot between 1 and 25),
    constraint fortnox_call_slots_side_check check (side in ('read', 'write'))
);
comment on table public.fortnox_call_slots is
    'The 25 slots of an organisation. A call takes one, which is free again a window after the call has ended.';
comment on column public.fortnox_call_slots.free_at is 'While its call lasts, the end of the lease: then the process that took it has died.';
comment on column public.fortnox_call_slots.token is 'Proves who took it. Null once it was given back.';

do $$
declare
    made text;
begin
    foreach made in array array['fortnox_pace', 'fortnox_call_slots'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_definer using (true)', made || '_definer_select', made);
        execute format('create policy %I on public.%I for insert to spine_definer with check (true)', made || '_definer_insert', made);
        execute format('create policy %I on public.%I for update to spine_definer using (true)', made || '_definer_update', made);
        execute format('grant select, insert, update on public.%I to spine_definer', made);
    end loop;
end
$$;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, owner) values ('fortnox_pace', 'system'), ('fortnox_call_slots', 'system');
alter table public.data_ownership force row level security;

reset role;
set local role spine_definer;

-- How many milliseconds a side has to wait for a slot; 0 if it may take one. A side that is alone may use all 25. While the other waits too
-- it gets 14, so that the other gets 11, which is more than 40 % even if it asks for each a little late.
create function app.call_slot_wait(p_org uuid, p_side text, p_now timestamptz) returns integer
    language sql volatile set search_path = '' as $$
    select case
               when u.used >= 25 then greatest(1, ceil(extract(epoch from u.first_free - p_now) * 1000))::integer
               when u.own >= 14 and w.other_waits then greatest(1, ceil(extract(epoch from u.first_own_free - p_now) * 1000))::integer
               else 0 end
      from (select count(*) as used, min(s.free_at) as first_free, count(*) filter (where s.side = p_side) as own,
                   min(s.free_at) filter (where s.side = p_side) as first_own_free
              from public.fortnox_call_slots s where s.org_id = p_org and s.free_at > p_now) u
     cross join (select case p_side when 'read' then p.write_waits_until else p.read_waits_until end > p_now as other_waits
                   from public.fortnox_pace p where p.org_id = p_org) w
$$;
comment on function app.call_slot_wait(uuid, text, timestamptz) is 'How many milliseconds a side has to wait for a slot; 0 if it may take one.';

-- Takes a slot for one call, or says in how many milliseconds to ask again. All times are the database's, so that processes need not agree
-- on theirs.
create function app.take_call_slot(p_side text, p_window_ms integer, p_lease_ms integer, out token uuid, out wait_ms integer)
    language plpgsql volatile security definer set search_path = '' set lock_timeout = '1s' as $$
#variable_conflict use_column
declare
    v_org    uuid := app.service_org();
    v_window interval := make_interval(secs => p_window_ms / 1000.0);
    v_now    timestamptz := clock_timestamp();
    p        public.fortnox_pace;
begin
    if v_org is null then
        raise exception 'a slot is an organisation''s' using errcode = 'insufficient_privilege';
    end if;
    if p_side not in ('read', 'write') or p_window_ms < 1 or p_lease_ms <= p_window_ms then
        raise exception 'a lease is longer than a window' using errcode = 'invalid_parameter_value';
    end if;
    -- Without the lock first: of many that wait, few have a reason to wait for each other.
    select * into p from public.fortnox_pace x where x.org_id = v_org;
    if not found then
        insert into public.fortnox_pace (org_id) values (v_org) on conflict (org_id) do nothing;
        if found then
            insert into public.fortnox_call_slots (org_id, slot) select v_org, n from generate_series(1, 25) n;
        end if;
    elsif (case p_side when 'read' then p.read_waits_until else p.write_waits_until end) > v_now + v_window / 2 then
        wait_ms := app.call_slot_wait(v_org, p_side, v_now);
        if wait_ms > 0 then
            return;
        end if;
    end if;

    perform from public.fortnox_pace x where x.org_id = v_org for update;
    v_now := clock_timestamp();
    wait_ms := app.call_slot_wait(v_org, p_side, v_now);
    if wait_ms > 0 then
        -- The mark outlasts two of its questions.
        update public.fortnox_pace x
           set read_waits_until = case p_side when 'read' then v_now + v_window else x.read_waits_until end,
               write_waits_until = case p_side when 'write' then v_now + v_window else x.write_waits_until end
         where x.org_id = v_org;
        return;
    end if;
    token := gen_random_uuid();
    update public.fortnox_call_slots s
       set side = p_side, token = take_call_slot.token, free_at = v_now + make_interval(secs => p_lease_ms / 1000.0)
     where s.org_id = v_org
       and s.slot = (select f.slot from public.fortnox_call_slots f where f.org_id = v_org and f.free_at <= v_now order by f.free_at limit 1);
end
$$;
comment on function app.take_call_slot(text, integer, integer) is 'Takes a slot for one call to Fortnox, or says in how many milliseconds to ask again.';

-- Gives a slot back whose call has ended: it is free a window later, and a fiftieth more for a clock that is set meanwhile. Where Fortnox
-- said that there were too many all the same, all slots that this side used last rest for two windows.
create function app.give_call_slot_back(p_token uuid, p_window_ms integer, p_refused boolean) returns void
    language plpgsql volatile security definer set search_path = '' set lock_timeout = '1s' as $$
declare
    v_org    uuid := app.service_org();
    v_window interval := make_interval(secs => p_window_ms / 1000.0);
    v_side   text;
begin
    if p_refused then
        -- More rows than one: in the order of those that take a slot.
        perform from public.fortnox_pace x where x.org_id = v_org for update;
    end if;
    update public.fortnox_call_slots s set token = null, free_at = clock_timestamp() + v_window * 1.02
     where s.org_id = v_org and s.token = p_token returning s.side into v_side;
    if p_refused then
        update public.fortnox_call_slots s set free_at = greatest(s.free_at, clock_timestamp() + v_window * 2)
         where s.org_id = v_org and s.side = v_side;
    end if;
end
$$;
comment on function app.give_call_slot_back(uuid, integer, boolean) is 'Gives a slot back whose call has ended.';

grant execute on function app.take_call_slot(text, integer, integer), app.give_call_slot_back(uuid, integer, boolean) to spine_service;

reset role;
