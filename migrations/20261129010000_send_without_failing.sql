-- Have no broadcast fail, delay or clutter the write it tells of.
--
-- Locks:   none.
-- Rollout: expand; what is sent stays as it was.
-- Undo:    make the functions as 20261121004500 does.

-- As 20261121004500 makes them, by who migrates, with three differences. An error (Realtime's functions are another release's, a right
-- is missing) is a warning. A lock on Realtime's table is waited for a tenth of a second, once a statement rather than once a topic.
-- Warnings are for the server's log alone: without a client connected to Realtime there is one for each topic of each write.
do $do$
declare
    told   record;
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
        v_one := case when told.whose is null then 'null::uuid[]' else format('array[r.%I]', told.whose) end;
        -- The person it was taken from hears of it too.
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
        execute format('create or replace function app.%I() returns trigger language plpgsql security definer set search_path = ''''
                        -- A plan made for one row would join twenty thousand of them one by one.
                        set enable_nestloop = off set lock_timeout = ''100ms'' set client_min_messages = error as %L',
                       'broadcast_' || told.name,
                       E'\ndeclare\n    c record;\nbegin\n    lock table only realtime.messages in row exclusive mode;' || v_body
                       || E'\n    return null;\nexception when others then\n    raise warning ''nothing of % was broadcast: %'', tg_table_name, sqlerrm;'
                       || E'\n    return null;\nend\n');
    end loop;
end
$do$;
