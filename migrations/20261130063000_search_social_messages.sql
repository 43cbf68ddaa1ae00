-- Search the words of messages within an organisation.
--
-- Locks:   none on tables.
-- Rollout: expand.
-- Undo:    drop the function.

set local role spine_owner;
grant select (id, content, sender_name, message_type, deleted_at) on public.social_messages to spine_definer;
reset role;
-- A name in public is needed for the Data API: the right to make one ends with this file.
grant create on schema public to spine_definer;
set local role spine_definer;

-- A policy keeps an index of words from being used, since what compares words might tell of rows that one may not see. So this asks for the
-- permission and the organisation itself.
create function public.search_social_messages(query text, most integer default 50, before timestamptz default null, before_id uuid default null)
    returns table (message_id uuid, thread_id uuid, account_id uuid, message_type text, direction text, sender_name text, content text, received_at timestamptz)
    -- One plan for all words reads a whole organisation to find a rare one.
    language plpgsql stable security definer set search_path = '' set plan_cache_mode = force_custom_plan as $$
#variable_conflict use_column
declare
    v_agent boolean := current_setting('role') = 'spine_agent';
    v_org   uuid;
    v_words tsquery;
begin
    if not v_agent then
        perform app.signed_in();
    end if;
    v_org := app.current_org_id();
    if v_org is null or not coalesce(case when v_agent then app.agent_may('social:read') else app.may('social:read') end, false) then
        perform app.refuse('PT403', 'social_read_forbidden', 'Your role in this organisation does not allow social:read.');
    end if;
    -- Each word as the beginning of one, so that `soff` finds `soffan`.
    select string_agg(format('''%s'':*', replace(w.lexeme, '''', '''''')), ' & ')::tsquery into v_words
      from (select u.lexeme from unnest(to_tsvector('pg_catalog.simple', left(query, 200))) u where u.lexeme !~ '\\' limit 10) w;
    if v_words is null then
        perform app.refuse('PT422', 'query_empty', 'Name at least one word to look for.');
    end if;
    return query
    select m.id, t.id, m.account_id, m.message_type, m.direction, m.sender_name, m.content, m.received_at
      from public.social_messages m
      join public.social_threads t on t.org_id = m.org_id and t.account_id = m.account_id and t.thread_id = m.thread_id
     where m.org_id = v_org and m.content is not null and m.deleted_at is null
       and app.social_words(m.org_id, m.content) @@ (format('''@%s''', v_org)::tsquery && v_words)
       and (before is null or (m.received_at, m.id) < (before, coalesce(before_id, '00000000-0000-0000-0000-000000000000')))
     order by m.received_at desc, m.id desc
     limit least(greatest(most, 1), 100);
end
$$;
comment on function public.search_social_messages(text, integer, timestamptz, uuid) is
    'Messages of the organisation with all of these words, or the beginnings of them; the latest first. Those before a time, and of those at that time before an id.';
revoke execute on function public.search_social_messages(text, integer, timestamptz, uuid) from public;
grant execute on function public.search_social_messages(text, integer, timestamptz, uuid) to authenticated, spine_caller, spine_agent;

reset role;
revoke create on schema public from spine_definer;
