-- Let an insight be one person's own, carry its provenance, and wait for the analyst's words.
--
-- Locks:   ai_insights exclusively, for the moment that adding columns, constraints and indexes takes; it holds a few rows for each
--          organisation.
-- Rollout: expand; running code leaves the new columns alone. Who may read is narrowed: `insights:read_all` opens what was made for it
--          and nothing else.
-- Undo:    drop the columns, and make the two policies as they were made before.

set local role spine_owner;

alter table public.ai_insights
    add column user_id          uuid,
    add column job_id           uuid,
    add column headline         text,
    add column bullets          jsonb       not null default '[]',
    add column instead_because  text,
    add column model            text,
    add column template_version integer,
    add column figures_digest   bytea,
    add column prompt_digest    bytea,
    add column seen_as          text,
    add column computed_at      timestamptz not null default now(),
    add column updated_at       timestamptz not null default now();
comment on column public.ai_insights.user_id is 'Whose own figures these are, where they rest on what one person sees; null for what everybody of the audience sees.';
comment on column public.ai_insights.bullets is 'What the summary says, one by one, each with the ids of the figures it speaks of.';
comment on column public.ai_insights.instead_because is 'Why it is not the model that speaks, where it is not.';
comment on column public.ai_insights.template_version is 'Which version of the prompt the model was given.';
comment on column public.ai_insights.figures_digest is 'SHA-256 of the figures: the same figures for the same audience need no other text.';
comment on column public.ai_insights.prompt_digest is 'SHA-256 of what the model was told: a text that answers the same prompt serves again.';
comment on column public.ai_insights.seen_as is 'What the person might see as their own figures were computed, see app.seen_as; with other rights they are shown them no more.';
comment on column public.ai_insights.computed_at is 'When these figures were last found to be so.';

alter table public.ai_insights
    add constraint ai_insights_digest_check check (length(figures_digest) = 32 and length(prompt_digest) = 32) not valid,
    add constraint ai_insights_text_check
        check (length(headline) <= 500 and pg_column_size(bullets) <= 65536 and length(instead_because) <= 100 and length(model) <= 100) not valid,
    add constraint ai_insights_seen_as_check check ((user_id is null) = (seen_as is null) and length(seen_as) <= 64) not valid,
    add constraint ai_insights_user_id_fkey foreign key (user_id) references public.profiles (id) on delete cascade not valid,
    add constraint ai_insights_org_id_job_id_fkey
        foreign key (org_id, job_id) references public.jobs (org_id, id) on delete set null (job_id) deferrable initially deferred not valid;
create index ai_insights_user_id_idx on public.ai_insights (user_id);
create index ai_insights_org_id_job_id_idx on public.ai_insights (org_id, job_id);
-- One of each: whoever asks again, or at once with another, gets the one that is there.
create unique index ai_insights_figures_key
    on public.ai_insights (org_id, table_name, period, period_start, audience, user_id, seen_as, figures_digest) nulls not distinct
    where figures_digest is not null;
create trigger ai_insights_touch before update of summary, headline, bullets, served_by on public.ai_insights for each row execute function app.touch_updated_at();

reset role;
set local role spine_definer;

-- What decides which rows a person sees in their active organisation: permissions and clients. A digest, so that it tells nothing.
create function app.seen_as() returns text language sql stable security definer set search_path = '' as $$
    select encode(sha256(convert_to((
        select string_agg(x.it, ' ' order by x.it)
          from (select unnest(app.my_permissions()) union select c::text from unnest(app.my_client_ids()) c
                union select 'own ' || c from unnest(app.my_own_client_ids()) c) x (it)), 'UTF8')), 'hex')
$$;
comment on function app.seen_as() is 'A digest of what the person may see in their active organisation: permissions and clients.';
grant execute on function app.seen_as() to authenticated, spine_service;

reset role;
set local role spine_owner;

-- One's own, whoever else is an admin, while one may see what one might when they were computed; else what was made for a permission one has.
alter policy ai_insights_select on public.ai_insights
    using (org_id = (select app.active_org_id())
           and case when user_id is not null then user_id = (select app.uid()) and seen_as = (select app.seen_as())
                    else array[audience, split_part(audience, ':', 1) || ':*', '*:' || split_part(audience, ':', 2), '*:*']
                         && (select app.my_permissions()) end);
alter policy ai_insights_agent_select on public.ai_insights
    using (org_id = (select app.agent_org_id()) and (select app.agent_may('insights:read')) and user_id is null);
alter policy ai_insights_agent_insert on public.ai_insights
    with check (org_id = (select app.agent_org_id()) and (select app.agent_may('insights:create')) and user_id is null);
-- Figures are computed where their policies hold, which is in the asker's own transaction: kept for an audience they belong to.
create policy ai_insights_caller_insert on public.ai_insights for insert to spine_caller
    with check (org_id = (select app.active_org_id())
                and case when user_id is not null then user_id = (select app.uid()) and seen_as = (select app.seen_as())
                         else array[audience, split_part(audience, ':', 1) || ':*', '*:' || split_part(audience, ':', 2), '*:*']
                              && (select app.my_permissions()) end);
create policy ai_insights_service_update on public.ai_insights for update to spine_service
    using (org_id = (select app.service_org())) with check (org_id = (select app.service_org()));
create policy ai_insights_definer_select on public.ai_insights for select to spine_definer using (true);
grant select on public.ai_insights to spine_definer;
create policy ai_insights_definer_update on public.ai_insights for update to spine_definer using (true) with check (true);
grant update (computed_at) on public.ai_insights to spine_definer;
grant insert (id, org_id, table_name, period_start, period, audience, user_id, seen_as, summary, headline, bullets, figures, served_by,
              instead_because, job_id, figures_digest)
    on public.ai_insights to spine_caller, spine_service;
grant update (summary, headline, bullets, served_by, instead_because, model, template_version, prompt_digest)
    on public.ai_insights to spine_service;

reset role;
