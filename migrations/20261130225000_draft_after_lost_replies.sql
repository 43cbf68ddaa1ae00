-- A reply whose fate is not known is given up after a day. From then on it keeps no later message of its thread from a draft.
--
-- Locks:   none that outlasts the replacement of two functions.
-- Rollout: expand.
-- Undo:    make app.queue_social_drafts and app.social_draft_of as 20261130185000 has them.

set local role spine_definer;

create or replace function app.queue_social_drafts(p_most integer) returns table (org_id uuid, job_id uuid)
    language sql volatile security definer set search_path = '' set enable_seqscan = off as $$
    insert into public.jobs as j (org_id, job_type, payload, unique_key)
    select s.org_id, 'social_draft', jsonb_build_object('thread_id', t.id, 'message_id', m.id), m.id::text
      from public.social_ai_settings s
      join public.social_threads t on t.org_id = s.org_id and t.status = 'open' and t.last_message_at = t.last_incoming_at
      join public.social_accounts a on a.org_id = t.org_id and a.id = t.account_id and a.status = 'active'
      join lateral (select x.id from public.social_messages x
                     where x.org_id = t.org_id and x.thread_id = t.thread_id and x.account_id = t.account_id and x.received_at = t.last_incoming_at
                       and x.direction = 'in' and x.content is not null and x.deleted_at is null limit 1) m on true
     where current_setting('role') = 'spine_service' and s.drafts <> 'off' and app.social_agent_may(s.org_id, s.agent_id, 'draft')
       and t.kind = any (case s.drafts when 'messages' then array['message'] else array['message', 'comment'] end)
       and t.last_message_at > now() - case when t.kind = 'message' and a.platform = 'instagram' then interval '23 hours' else interval '7 days' end
       and not exists (select from public.social_replies r where r.org_id = t.org_id and r.thread_id = t.id
                                                             and (r.status in ('draft', 'queued', 'sending', 'unknown') and r.ended_at is null
                                                              or r.created_at > t.last_incoming_at))
       and not exists (select from public.jobs o where o.org_id = t.org_id and o.job_type = 'social_draft' and o.unique_key = m.id::text)
     order by t.last_message_at limit least(p_most, 1000)
    on conflict (org_id, job_type, unique_key) where unique_key is not null do nothing
    returning j.org_id, j.id
$$;

create or replace function app.social_draft_of(p_thread uuid, p_message uuid) returns jsonb
    language plpgsql stable security definer set search_path = '' set enable_seqscan = off as $$
declare
    v_org    uuid := app.service_org();
    s        public.social_ai_settings;
    t        public.social_threads;
    a        record;
    v_first  uuid;
    v_barred text;
begin
    if v_org is null or current_setting('role') <> 'spine_service' then
        raise exception 'the system drafts for an agent' using errcode = 'insufficient_privilege';
    end if;
    select * into s from public.social_ai_settings x where x.org_id = v_org;
    select * into t from public.social_threads x where x.org_id = v_org and x.id = p_thread;
    if s.org_id is null or t.id is null or t.kind <> all (case s.drafts when 'messages' then array['message'] when 'all' then array['message', 'comment'] else '{}'::text[] end) then
        return jsonb_build_object('outcome', case when t.id is null and s.org_id is not null then 'thread_gone' else 'drafts_off' end);
    end if;
    if not app.social_agent_may(v_org, s.agent_id, 'draft') then
        return jsonb_build_object('outcome', 'agent_may_not');
    end if;
    if t.status <> 'open' or exists (select from public.social_replies r where r.org_id = v_org and r.thread_id = t.id
                                        and (r.status in ('draft', 'queued', 'sending', 'unknown') and r.ended_at is null
                                         or r.created_at > t.last_incoming_at)) then
        return jsonb_build_object('outcome', 'answered');
    end if;
    if t.last_message_at is distinct from t.last_incoming_at
       or not exists (select from public.social_messages x where x.org_id = v_org and x.id = p_message and x.received_at = t.last_incoming_at
                                                             and x.thread_id = t.thread_id and x.content is not null and x.deleted_at is null) then
        return jsonb_build_object('outcome', 'superseded');
    end if;
    select x.platform, x.api into a from public.social_accounts x where x.org_id = v_org and x.id = t.account_id;
    if t.kind = 'message' and a.platform = 'instagram' and t.last_incoming_at <= now() - interval '23 hours' then
        return jsonb_build_object('outcome', 'window_closed');
    end if;
    if t.kind = 'comment' then
        select k.message_id into v_first from public.social_message_keys k
         where k.org_id = v_org and k.account_id = t.account_id and k.platform_id = substr(t.thread_id, 9);
    end if;
    v_barred := app.social_reply_barred(v_org, t.account_id, t.id, t.kind, v_first);
    if v_barred is not null then
        return jsonb_build_object('outcome', v_barred);
    end if;
    return jsonb_build_object('outcome', 'due', 'agent_id', s.agent_id, 'instruction', s.instruction, 'kind', t.kind, 'messages',
        (select jsonb_agg(jsonb_build_object('direction', m.direction, 'text', left(m.content, 1000)) order by m.received_at, m.id)
           from (select x.id, x.received_at, x.direction, x.content from public.social_messages x
                  where x.org_id = v_org and x.thread_id = t.thread_id and x.account_id = t.account_id and x.content is not null and x.deleted_at is null
                  order by x.received_at desc, x.id desc limit 10) m));
end
$$;

reset role;
