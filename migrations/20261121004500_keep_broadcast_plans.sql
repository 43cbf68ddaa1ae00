-- Broadcast changes with statements that are planned once for a connection and not once for a change.
--
-- Locks:   social_messages, render_requests, jobs, leads and audit_log: share row exclusive, for the moment that exchanging triggers takes.
-- Rollout: expand; what is told stays as it was.
-- Undo:    make app.broadcast_change and the triggers as 20261121002100 does, and drop the functions made here.

-- A function for each table, app.broadcast_<table>, made as whoever migrates: on Supabase only its postgres may send. `whose` is the column
-- that names whose row it is; `watched` are the columns whose change is worth telling, and none means any. What is told are ids: who
-- hears them reads the rows under their own policies. Columns are named in the statements, so that nothing else of a row is read.
do $do$
declare
    told   record;
    v_name text;
    v_one  text;
    v_both text;
    v_body text;
    v_verb text;
begin
    for told in
        select * from (values ('social_messages', null, '{content,status,deleted_at}'::text[], '{insert,update,delete}'::text[]),
                              ('render_requests', 'user_id', '{status}', '{insert,update,delete}'),
                              ('jobs', 'created_by', '{status,wait_reason}', '{insert,update,delete}'),
                              ('leads', 'assigned_to', '{}', '{insert,update,delete}'),
                              ('audit_log', null, '{}', '{insert}')) as t (name, whose, watched, verbs)
    loop
        v_name := 'broadcast_' || told.name;
        v_one := case when told.whose is null then 'null::uuid[]' else format('array[r.%I]', told.whose) end;
        -- Whoever it was taken from hears of it too.
        v_both := case when told.whose is null then 'null::uuid[]' else format('array[n.%1$I, o.%1$I]', told.whose) end;
        v_body := '';
        foreach v_verb in array told.verbs loop
            -- A row for each topic: the organisation's, and those of its people.
            v_body := v_body || format($f$
    if tg_op = %L then
        for c in
            with changed (org, id, whose) as materialized (%s),
            heard as (select org, id, null::uuid as person from changed
                      union all
                      select org, id, person from changed, lateral (select distinct w as person from unnest(whose) w where w is not null) p)
            select h.org, h.person, count(*) as rows, jsonb_agg(h.id) filter (where h.place <= 100) as ids
              from (select *, row_number() over (partition by org, person) as place from heard where org is not null) h
             group by h.org, h.person
        loop
            perform realtime.send(
                jsonb_build_object('table', tg_table_name, 'operation', tg_op, 'count', c.rows, 'ids', case when c.rows <= 100 then c.ids end),
                lower(tg_op), 'org:' || c.org || ':' || tg_table_name || coalesce(':' || c.person, ''), true);
        end loop;
    end if;$f$, upper(v_verb),
                case v_verb
                    when 'insert' then format('select r.org_id, r.id, %s from new_rows r', v_one)
                    when 'delete' then format('select r.org_id, r.id, %s from old_rows r', v_one)
                    else format('select n.org_id, n.id, %s from new_rows n join old_rows o on o.id = n.id where %s', v_both,
                                coalesce((select string_agg(format('n.%1$I is distinct from o.%1$I', w), ' or ') from unnest(told.watched) w), 'true'))
                end);
        end loop;
        execute format('create function app.%I() returns trigger language plpgsql security definer set search_path = ''''
                        -- A plan made for one row would join twenty thousand of them one by one.
                        set enable_nestloop = off as %L', v_name,
                       E'\ndeclare\n    c record;\nbegin' || v_body || E'\n    return null;\nend\n');
        execute format('comment on function app.%I() is %L', v_name,
                       format('Tells private topics which rows of %s a statement changed: ids and no contents.', told.name));
        execute format('revoke execute on function app.%I() from public', v_name);
        execute format('grant execute on function app.%I() to spine_owner', v_name);
        set local role spine_owner;
        foreach v_verb in array told.verbs loop
            execute format('create or replace trigger %I after %s on public.%I referencing %s for each statement execute function app.%I()',
                           told.name || '_broadcast_' || v_verb, v_verb, told.name,
                           case v_verb when 'insert' then 'new table as new_rows' when 'delete' then 'old table as old_rows'
                                       else 'old table as old_rows new table as new_rows' end, v_name);
        end loop;
        reset role;
    end loop;
end
$do$;

-- app.audit_change keeps its plans too.
set local role spine_definer;
alter function app.audit_change() set enable_nestloop = off;
reset role;

-- squawk-ignore ban-drop-function
drop function app.broadcast_change(); -- Nothing but those triggers ever called it.
