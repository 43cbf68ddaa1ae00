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
-- change is worth telling; none means any. What is told are ids: who hears them reads the rows under their own policies. Columns are
-- named in the statement, so that nothing else of a row is read.
create function app.broadcast_change() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_whose   text := nullif(tg_argv[0], '');
    v_watched text[] := string_to_array(nullif(tg_argv[1], ''), ',');
    v_changed text;
    c         record;
begin
    v_changed := case tg_op
        when 'INSERT' then 'select n.org_id, n.id, ' || case when v_whose is null then 'null::uuid[]' else format('array[n.%I]', v_whose) end
                           || ' from new_rows n'
        when 'DELETE' then 'select o.org_id, o.id, ' || case when v_whose is null then 'null::uuid[]' else format('array[o.%I]', v_whose) end
                           || ' from old_rows o'
        -- Whoever it was taken from hears of it too.
        else 'select n.org_id, n.id, ' || case when v_whose is null then 'null::uuid[]' else format('array[n.%1$I, o.%1$I]', v_whose) end
             || ' from new_rows n join old_rows o on o.id = n.id where '
             || coalesce((select string_agg(format('n.%1$I is distinct from o.%1$I', w), ' or ') from unnest(v_watched) w), 'true')
    end;
    for c in execute format(
        'with changed (org, id, whose) as materialized (%s),
         heard as (select org, id, null::uuid as person from changed
                   union all
                   select org, id, person from changed, lateral (select distinct w as person from unnest(whose) w where w is not null) p)
         select h.org, h.person, count(*) as rows, jsonb_agg(h.id) filter (where h.place <= 100) as ids
           from (select *, row_number() over (partition by org, person) as place from heard where org is not null) h
          group by h.org, h.person', v_changed)
    loop
        perform realtime.send(
            jsonb_build_object('table', tg_table_name, 'operation', tg_op, 'count', c.rows,
                               'ids', case when c.rows <= 100 then c.ids end), lower(tg_op),
            'org:' || c.org || ':' || tg_table_name || coalesce(':' || c.person, ''), true);
    end loop;
    return null;
end
$$;
comment on function app.broadcast_change() is 'Tells the organisation''s private topics which rows a statement changed: ids and no contents.';
revoke execute on function app.broadcast_change() from public;
grant execute on function app.broadcast_change() to spine_owner;

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
