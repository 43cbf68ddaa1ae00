-- Put org_id first in every unique key of a tenant's table that leads to no row by itself, so that whether a key is taken tells
-- nothing of another organisation.
--
-- Before, a pair like (client_id, user_id) was refused as taken where another organisation had it, and as unknown where nobody had.
--
-- Locks:   client_consultants, client_users, client_templates, client_accounting, blog_tags, blog_media, project_tags, permissions,
--          render_parameters, render_results, template_questions, template_question_accounting, submission_answers,
--          social_message_keys, social_analytics, social_sentiment and social_cursors exclusively, while their keys are built. No
--          database holds rows of them yet.
-- Rollout: expand. `on conflict` names org_id from here on.
-- Undo:    make the keys again without org_id, and the indexes that they replace; the functions may stay.

-- Each is replaced in the same statement: a key that was unique alone is so together with its organisation.
-- squawk-ignore-file ban-drop-constraint

set local role spine_owner;

alter table public.client_consultants drop constraint client_consultants_pkey,
    add constraint client_consultants_pkey primary key (org_id, client_id, user_id);
alter table public.client_users drop constraint client_users_pkey,
    add constraint client_users_pkey primary key (org_id, client_id, user_id);
alter table public.client_templates drop constraint client_templates_pkey,
    add constraint client_templates_pkey primary key (org_id, client_id, template_id);
alter table public.client_accounting drop constraint client_accounting_pkey,
    add constraint client_accounting_pkey primary key (org_id, client_id, provider);
alter table public.blog_tags drop constraint blog_tags_post_id_tag_key,
    add constraint blog_tags_org_id_post_id_tag_key unique (org_id, post_id, tag);
alter table public.blog_media drop constraint blog_media_post_id_file_path_key,
    add constraint blog_media_org_id_post_id_file_path_key unique (org_id, post_id, file_path);
alter table public.project_tags drop constraint project_tags_project_id_tag_key,
    add constraint project_tags_org_id_project_id_tag_key unique (org_id, project_id, tag);
-- A built-in role has no organisation.
alter table public.permissions drop constraint permissions_role_id_resource_action_key,
    add constraint permissions_org_id_role_id_resource_action_key unique nulls not distinct (org_id, role_id, resource, action);
create index permissions_role_id_idx on public.permissions (role_id, resource, action);
alter table public.render_parameters drop constraint render_parameters_request_id_key,
    add constraint render_parameters_org_id_request_id_key unique (org_id, request_id);
alter table public.render_results drop constraint render_results_request_id_variant_key,
    add constraint render_results_org_id_request_id_variant_key unique (org_id, request_id, variant);
alter table public.template_questions drop constraint template_questions_template_id_position_key,
    add constraint template_questions_org_id_template_id_position_key unique (org_id, template_id, position) deferrable initially immediate;
alter table public.template_question_accounting drop constraint template_question_accounting_place_key,
    add constraint template_question_accounting_place_key unique (org_id, question_id, event, account, side);
alter table public.submission_answers drop constraint submission_answers_place_key,
    add constraint submission_answers_place_key
        unique nulls not distinct (org_id, submission_id, question_id, parent_id, row_index);
alter table public.submission_answers drop constraint submission_answers_submission_id_parent_id_fkey,
    drop constraint submission_answers_submission_id_id_key,
    add constraint submission_answers_org_id_submission_id_id_key unique (org_id, submission_id, id);
alter table public.submission_answers add constraint submission_answers_org_id_submission_id_parent_id_fkey
    foreign key (org_id, submission_id, parent_id) references public.submission_answers (org_id, submission_id, id) on delete cascade;
alter table public.social_message_keys drop constraint social_message_keys_pkey,
    add constraint social_message_keys_pkey primary key (org_id, account_id, platform_id);
alter table public.social_analytics drop constraint social_analytics_account_id_metric_type_recorded_at_key,
    add constraint social_analytics_place_key unique (org_id, account_id, metric_type, recorded_at);
alter table public.social_sentiment drop constraint social_sentiment_message_id_model_used_key,
    add constraint social_sentiment_org_id_message_id_model_used_key unique (org_id, message_id, model_used);
alter table public.social_cursors drop constraint social_cursors_pkey,
    add constraint social_cursors_pkey primary key (org_id, account_id, stream);

-- What a key now begins with needs no index of its own.
drop index public.client_consultants_org_id_client_id_idx, public.client_users_org_id_client_id_idx,
    public.client_templates_org_id_client_id_idx, public.client_accounting_org_id_client_id_idx, public.blog_tags_org_id_post_id_idx,
    public.blog_media_org_id_post_id_idx, public.project_tags_org_id_project_id_idx, public.permissions_org_id_idx,
    public.render_parameters_org_id_request_id_idx, public.render_results_org_id_request_id_idx,
    public.template_questions_org_id_template_id_idx, public.template_question_accounting_org_id_question_id_idx,
    public.submission_answers_org_id_submission_id_idx, public.submission_answers_submission_id_parent_id_idx,
    public.social_message_keys_org_id_account_id_idx, public.social_analytics_org_id_account_id_idx,
    public.social_sentiment_org_id_message_id_idx, public.social_cursors_org_id_account_id_idx;
create index submission_answers_org_id_submission_id_parent_id_idx on public.submission_answers (org_id, submission_id, parent_id);

reset role;
grant create on schema public to spine_definer;
set local role spine_definer;

-- What looks a person up among those who work with a client does so by the new keys.
create or replace function app.my_client_ids() returns uuid[]
    language sql stable security definer set search_path = '' as $$
    with org as (select app.active_org_id() as id)
    select coalesce(array_agg(c.id), '{}')
      from public.clients c, org
     where c.org_id = org.id
       and (exists (select from public.client_users u
                    where u.org_id = c.org_id and u.client_id = c.id and u.user_id = app.uid())
            or exists (select from public.client_consultants k
                       where k.org_id = c.org_id and k.client_id = c.id and k.user_id = app.uid())
            or exists (select from public.org_consultants m
                        where m.org_id = org.id and m.user_id = app.uid() and m.role = 'manager'))
$$;

create or replace function app.my_consulted_client_ids() returns uuid[]
    language sql stable security definer set search_path = '' as $$
    with org as (select app.active_org_id() as id)
    select coalesce(array_agg(c.id), '{}')
      from public.clients c, org
     where c.org_id = org.id
       and (exists (select from public.client_consultants k
                       where k.org_id = c.org_id and k.client_id = c.id and k.user_id = app.uid())
            or exists (select from public.org_consultants m
                        where m.org_id = org.id and m.user_id = app.uid() and m.role = 'manager'))
       and not exists (select from public.client_users u
                    where u.org_id = c.org_id and u.client_id = c.id and u.user_id = app.uid())
$$;

create or replace function public.set_active_context(org_id uuid, client_id uuid default null) returns void
    language plpgsql volatile security definer set search_path = '' as $$
#variable_conflict use_variable
begin
    if not coalesce(app.belongs(app.signed_in(), org_id), false) then
        perform app.refuse('PT404', 'organization_not_found', 'There is no such organisation that you belong to.');
    end if;
    if app.as_uuid(app.claim('session_id')) is null then
        perform app.refuse('PT422', 'session_required', 'The token names no session to remember this for; send the header Spine-Org instead.');
    end if;
    if client_id is not null and not exists (
        select from public.clients k where k.org_id = org_id and k.id = client_id
           and (exists (select from public.org_members m where m.org_id = k.org_id and m.user_id = app.uid())
                or exists (select from public.org_consultants m
                            where m.org_id = k.org_id and m.user_id = app.uid() and m.role = 'manager')
                or exists (select from public.client_consultants m
                            where m.org_id = k.org_id and m.client_id = k.id and m.user_id = app.uid())
                or exists (select from public.client_users m
                            where m.org_id = k.org_id and m.client_id = k.id and m.user_id = app.uid()))) then
        perform app.refuse('PT404', 'client_not_found', 'There is no such client of this organisation that you work with.');
    end if;
    perform app.remember_context(org_id, client_id);
end
$$;

reset role;
revoke create on schema public from spine_definer;
