-- Broadcast changes of messages, renders, jobs, leads and the audit log on private topics.
--
-- Locks:   social_messages, render_requests, jobs, leads and audit_log: share row exclusive, for the moment that making a trigger takes.
-- Rollout: expand. Each statement that changes these tables costs one more insert for each organisation it touches.
-- Undo:    drop the triggers, app.broadcast_change, app.may_hear and the policy.

set local role spine_definer;

-- `org:<organisation>:<table>` is for whoever may read all of that table; `org:<organisation>:<table>:<person>` for that person, and
-- carries the rows that are theirs.
create function app.may_hear(topic text) returns boolean
    language sql stable security definer set search_path = '' as $$
    select coalesce(
        t.part[1] = 'org' and app.as_uuid(t.part[2]) = app.active_org_id()
        and case cardinality(t.part)
                when 3 then case t.part[3]
                                when 'leads' then app.may('leads:read_all') when 'render_requests' then app.may('renders:read_all')
                                when 'jobs' then app.may('jobs:read_all') when 'social_messages' then app.may('social:read')
                                when 'audit_log' then app.may('audit:read') end
                when 4 then t.part[3] in ('leads', 'render_requests', 'jobs') and app.as_uuid(t.part[4]) = app.uid()
            end, false)
      from (select string_to_array(topic, ':') as part) t
$$;
comment on function app.may_hear(text) is 'Whether the person may listen to a realtime topic.';
grant execute on function app.may_hear(text) to authenticated;

reset role;

-- As whoever migrates: on Supabase only its postgres may send. Arguments: the column that names whose row it is, and the columns whose
-- change is worth telling; none means any. What is told are ids: who hears them reads the rows under their own policies.
create function app.broadcast_change() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_watched text[] := string_to_array(nullif(tg_argv[1], ''), ',');
    v_changes jsonb;
    c         record;
begin
    -- A transition table exists for its own operations only, so each branch names just those.
    if tg_op = 'INSERT' then
        select jsonb_agg(jsonb_build_object('org', n.org_id, 'id', n.id, 'whose', jsonb_build_array(to_jsonb(n) -> tg_argv[0])))
          into v_changes from new_rows n;
    elsif tg_op = 'DELETE' then
        select jsonb_agg(jsonb_build_object('org', o.org_id, 'id', o.id, 'whose', jsonb_build_array(to_jsonb(o) -> tg_argv[0])))
          into v_changes from old_rows o;
    else
        -- Whoever it was taken from hears of it too.
        select jsonb_agg(jsonb_build_object('org', n.org_id, 'id', n.id,
                                            'whose', jsonb_build_array(to_jsonb(n) -> tg_argv[0], to_jsonb(o) -> tg_argv[0])))
          into v_changes from new_rows n join old_rows o on o.id = n.id
         where v_watched is null
            or exists (select from unnest(v_watched) w (name) where to_jsonb(n) -> w.name is distinct from to_jsonb(o) -> w.name);
    end if;
    for c in
        select h.org, h.person, count(*) as rows, case when count(*) <= 100 then jsonb_agg(h.id) end as ids
          from (select x.value ->> 'org' as org, x.value -> 'id' as id, null as person from jsonb_array_elements(v_changes) x
                union
                select x.value ->> 'org', x.value -> 'id', w.value from jsonb_array_elements(v_changes) x,
                       jsonb_array_elements_text(x.value -> 'whose') w
                 where w.value is not null) h
         where h.org is not null
         group by h.org, h.person
    loop
        perform realtime.send(
            jsonb_build_object('table', tg_table_name, 'operation', tg_op, 'count', c.rows, 'ids', c.ids), lower(tg_op),
            'org:' || c.org || ':' || tg_table_name || coalesce(':' || c.person, ''), true);
    end loop;
    return null;
end
$$;
comment on function app.broadcast_change() is 'Tells the organisation''s private topics which rows a statement changed: ids and no contents.';
revoke execute on function app.broadcast_change() from public;
grant execute on function app.broadcast_change() to spine_owner;

-- Of the topic that is asked for, and of no other.
create policy spine_topics_select on realtime.messages for select to authenticated
    using (extension = 'broadcast' and topic = (select realtime.topic()) and (select app.may_hear((select realtime.topic()))));

set local role spine_owner;
do $$
declare
    told record;
    verb text;
begin
    for told in
        select * from (values ('social_messages', '', 'content,status,deleted_at'), ('render_requests', 'user_id', 'status'),
                              ('jobs', 'created_by', 'status,wait_reason'), ('leads', 'assigned_to', ''), ('audit_log', '', '')) as t (name, whose, watched)
    loop
        foreach verb in array case told.name when 'audit_log' then array['insert'] else array['insert', 'update', 'delete'] end loop
            execute format('create trigger %I after %s on public.%I referencing %s for each statement execute function app.broadcast_change(%L, %L)',
                           told.name || '_broadcast_' || verb, verb, told.name,
                           case verb when 'insert' then 'new table as new_rows' when 'delete' then 'old table as old_rows'
                                     else 'old table as old_rows new table as new_rows' end,
                           told.whose, told.watched);
        end loop;
    end loop;
end
$$;
reset role;
