-- Create the client workflow: questions of a template, submissions with nested answers, reviews, accounting mappings.
--
-- Locks:   data_ownership exclusively, for one insert; client_users and clients for the moment that a foreign key takes.
-- Rollout: expand.
-- Undo:    drop the view, the five tables and the functions of this file.

set local role spine_owner;

create table public.template_questions (
    id          uuid        primary key default app.uuidv7(),
    org_id      uuid        not null,
    template_id uuid        not null,
    position    integer     not null,
    kind        text        not null,
    label       text        not null,
    options     jsonb       not null default '[]',
    required    boolean     not null default false,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),

    constraint template_questions_org_id_id_key unique (org_id, id),
    constraint template_questions_template_id_position_key unique (template_id, position) deferrable initially immediate,
    constraint template_questions_kind_check
        check (kind in ('text', 'long_text', 'number', 'money', 'date', 'choice', 'choices', 'yes_no', 'file', 'table')),
    constraint template_questions_label_check check (length(label) between 1 and 1000),
    constraint template_questions_options_check check (pg_column_size(options) <= 65536),
    constraint template_questions_org_id_template_id_fkey
        foreign key (org_id, template_id) references public.templates (org_id, id) on delete cascade
);
comment on table public.template_questions is 'A question of a form, in order. A table has rows, each with an answer for each of its options.';
create index template_questions_org_id_template_id_idx on public.template_questions (org_id, template_id, position);

create table public.submissions (
    id           uuid        primary key default app.uuidv7(),
    org_id       uuid        not null,
    client_id    uuid        not null,
    template_id  uuid        not null,
    status       text        not null default 'draft',
    submitted_at timestamptz,
    reviewed_at  timestamptz,
    created_by   uuid        default app.uid() references public.profiles (id) on delete set null,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),

    constraint submissions_org_id_id_key unique (org_id, id),
    constraint submissions_status_check check (status in ('draft', 'submitted', 'changes_requested', 'approved', 'rejected')),
    constraint submissions_submitted_at_check check (status = 'draft' or submitted_at is not null),
    constraint submissions_org_id_client_id_fkey
        foreign key (org_id, client_id) references public.clients (org_id, id) on delete cascade,
    constraint submissions_org_id_template_id_fkey foreign key (org_id, template_id) references public.templates (org_id, id)
);
comment on table public.submissions is
    'A form as a client fills it in: draft, submitted, changes requested (and submitted again), then approved or rejected for good.';
create index submissions_org_id_created_at_idx on public.submissions (org_id, created_at desc);
create index submissions_org_id_client_id_idx on public.submissions (org_id, client_id, created_at desc);
create index submissions_org_id_template_id_idx on public.submissions (org_id, template_id);
create index submissions_created_by_idx on public.submissions (created_by);

create table public.submission_answers (
    id            uuid        primary key default app.uuidv7(),
    org_id        uuid        not null,
    submission_id uuid        not null,
    question_id   uuid        not null,
    parent_id     uuid,
    row_index     integer,
    value         jsonb       not null,
    created_at    timestamptz not null default now(),
    updated_at    timestamptz not null default now(),

    constraint submission_answers_submission_id_id_key unique (submission_id, id),
    -- One answer to a question, or one in each row of the answer it is nested in.
    constraint submission_answers_place_key unique nulls not distinct (submission_id, question_id, parent_id, row_index),
    constraint submission_answers_row_check check ((parent_id is null) = (row_index is null) and row_index between 0 and 9999),
    constraint submission_answers_value_check check (pg_column_size(value) <= 262144),
    constraint submission_answers_org_id_submission_id_fkey
        foreign key (org_id, submission_id) references public.submissions (org_id, id) on delete cascade,
    constraint submission_answers_org_id_question_id_fkey foreign key (org_id, question_id) references public.template_questions (org_id, id),
    -- Nested in an answer of the same submission.
    constraint submission_answers_submission_id_parent_id_fkey
        foreign key (submission_id, parent_id) references public.submission_answers (submission_id, id) on delete cascade
);
comment on table public.submission_answers is 'What was answered: a simple value, or a table''s answer with its rows nested below it.';
create index submission_answers_org_id_submission_id_idx on public.submission_answers (org_id, submission_id);
create index submission_answers_org_id_question_id_idx on public.submission_answers (org_id, question_id);
create index submission_answers_submission_id_parent_id_idx on public.submission_answers (submission_id, parent_id);

create table public.submission_reviews (
    id            uuid        primary key default app.uuidv7(),
    org_id        uuid        not null,
    submission_id uuid        not null,
    reviewer_id   uuid        default app.uid() references public.profiles (id) on delete set null,
    decision      text        not null,
    feedback      text        not null default '',
    created_at    timestamptz not null default now(),

    constraint submission_reviews_decision_check check (decision in ('changes_requested', 'approved', 'rejected')),
    -- Whoever must do it again is told what.
    constraint submission_reviews_feedback_check check (length(feedback) <= 20000 and (decision = 'approved' or length(feedback) > 0)),
    constraint submission_reviews_org_id_submission_id_fkey
        foreign key (org_id, submission_id) references public.submissions (org_id, id) on delete cascade
);
comment on table public.submission_reviews is 'A decision about a submission. Making one moves the submission; none is ever edited.';
create index submission_reviews_org_id_submission_id_idx on public.submission_reviews (org_id, submission_id, created_at);
create index submission_reviews_reviewer_id_idx on public.submission_reviews (reviewer_id);

create table public.template_question_accounting (
    id             uuid        primary key default app.uuidv7(),
    org_id         uuid        not null,
    question_id    uuid        not null,
    event          text        not null,
    account        text        not null,
    side           text        not null,
    vat_code       text,
    voucher_series text        not null default 'A',
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),

    constraint template_question_accounting_place_key unique (question_id, event, account, side),
    constraint template_question_accounting_event_check check (event in ('approval', 'payment')),
    -- BAS: four digits.
    constraint template_question_accounting_account_check check (account ~ '^[1-8][0-9]{3}$'),
    constraint template_question_accounting_side_check check (side in ('debit', 'credit')),
    constraint template_question_accounting_code_check check (length(vat_code) <= 20 and voucher_series ~ '^[A-Z]{1,2}$'),
    constraint template_question_accounting_org_id_question_id_fkey
        foreign key (org_id, question_id) references public.template_questions (org_id, id) on delete cascade
);
comment on table public.template_question_accounting is 'Which account an answer is booked to, when its submission is approved or paid.';
create index template_question_accounting_org_id_question_id_idx on public.template_question_accounting (org_id, question_id);

do $$
declare
    made text;
begin
    foreach made in array array['template_questions', 'submissions', 'submission_answers', 'submission_reviews', 'template_question_accounting'] loop
        execute format('alter table public.%I enable row level security', made);
        execute format('alter table public.%I force row level security', made);
        execute format('create policy %I on public.%I for select to spine_service using (org_id = (select app.service_org()))',
                       made || '_service_select', made);
        execute format('grant select on public.%I to spine_service', made);
    end loop;
end
$$;

-- Questions follow their template.
create policy template_questions_select on public.template_questions for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.templates t where t.org_id = template_questions.org_id and t.id = template_questions.template_id));
create policy template_questions_insert on public.template_questions for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
                and exists (select from public.templates t
                             where t.org_id = template_questions.org_id and t.id = template_questions.template_id and not t.is_system
                               and case when (select app.may('templates:update_all')) then true else t.created_by = (select app.uid()) end));
create policy template_questions_update on public.template_questions for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
           and exists (select from public.templates t
                        where t.org_id = template_questions.org_id and t.id = template_questions.template_id and not t.is_system
                          and case when (select app.may('templates:update_all')) then true else t.created_by = (select app.uid()) end));
create policy template_questions_delete on public.template_questions for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
           and exists (select from public.templates t
                        where t.org_id = template_questions.org_id and t.id = template_questions.template_id and not t.is_system
                          and case when (select app.may('templates:update_all')) then true else t.created_by = (select app.uid()) end));
grant select, delete on public.template_questions to authenticated;
grant insert (id, org_id, template_id, position, kind, label, options, required) on public.template_questions to authenticated;
grant update (position, label, options, required) on public.template_questions to authenticated;

create policy template_question_accounting_select on public.template_question_accounting for select to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('templates:read')));
create policy template_question_accounting_insert on public.template_question_accounting for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
                and exists (select from public.template_questions q join public.templates t on t.org_id = q.org_id and t.id = q.template_id
                             where q.org_id = template_question_accounting.org_id and q.id = template_question_accounting.question_id
                               and not t.is_system
                               and case when (select app.may('templates:update_all')) then true else t.created_by = (select app.uid()) end));
create policy template_question_accounting_update on public.template_question_accounting for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
           and exists (select from public.template_questions q join public.templates t on t.org_id = q.org_id and t.id = q.template_id
                        where q.org_id = template_question_accounting.org_id and q.id = template_question_accounting.question_id
                          and not t.is_system
                          and case when (select app.may('templates:update_all')) then true else t.created_by = (select app.uid()) end));
create policy template_question_accounting_delete on public.template_question_accounting for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('templates:update'))
           and exists (select from public.template_questions q join public.templates t on t.org_id = q.org_id and t.id = q.template_id
                        where q.org_id = template_question_accounting.org_id and q.id = template_question_accounting.question_id
                          and not t.is_system
                          and case when (select app.may('templates:update_all')) then true else t.created_by = (select app.uid()) end));
grant select, delete on public.template_question_accounting to authenticated;
grant insert (id, org_id, question_id, event, account, side, vat_code, voucher_series) on public.template_question_accounting to authenticated;
grant update (account, side, vat_code, voucher_series) on public.template_question_accounting to authenticated;

-- A draft is its client's own: a consultant sees it once it is submitted, unless they began it.
create policy submissions_select on public.submissions for select to authenticated
    using (org_id = (select app.active_org_id())
           and case when (select app.may('submissions:read_all')) then true
                    else client_id = any ((select app.my_client_ids())::uuid[])
                         and (status <> 'draft' or created_by = (select app.uid())
                              or client_id = any ((select app.my_own_client_ids())::uuid[])) end);
create policy submissions_insert on public.submissions for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('submissions:create'))
                and case when (select app.may('submissions:read_all')) then true else client_id = any ((select app.my_client_ids())::uuid[]) end
                and exists (select from public.client_templates t
                             where t.org_id = submissions.org_id and t.client_id = submissions.client_id
                               and t.template_id = submissions.template_id));
create policy submissions_update on public.submissions for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('submissions:update')) and status in ('draft', 'changes_requested')
           and case when (select app.may('submissions:read_all')) then true
                    -- As seen: an update that reads nothing is not held back by what may be read.
                    else client_id = any ((select app.my_client_ids())::uuid[])
                         and (status <> 'draft' or created_by = (select app.uid())
                              or client_id = any ((select app.my_own_client_ids())::uuid[])) end)
    with check (org_id = (select app.active_org_id()));
create policy submissions_delete on public.submissions for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('submissions:update')) and status = 'draft'
           and case when (select app.may('submissions:read_all')) then true
                    else client_id = any ((select app.my_client_ids())::uuid[]) and created_by = (select app.uid()) end);
grant select, delete on public.submissions to authenticated;
grant insert (id, org_id, client_id, template_id) on public.submissions to authenticated;
grant update (status) on public.submissions to authenticated;

-- Answers follow their submission, and may be written while it is at its client.
create policy submission_answers_select on public.submission_answers for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.submissions s where s.org_id = submission_answers.org_id and s.id = submission_answers.submission_id));
-- Whether it may be written now, the trigger says, and by name.
create policy submission_answers_insert on public.submission_answers for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('submissions:update'))
                and exists (select from public.submissions s
                             where s.org_id = submission_answers.org_id and s.id = submission_answers.submission_id));
create policy submission_answers_update on public.submission_answers for update to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('submissions:update'))
           and exists (select from public.submissions s
                        where s.org_id = submission_answers.org_id and s.id = submission_answers.submission_id
                          and s.status in ('draft', 'changes_requested')));
create policy submission_answers_delete on public.submission_answers for delete to authenticated
    using (org_id = (select app.active_org_id()) and (select app.may('submissions:update'))
           and exists (select from public.submissions s
                        where s.org_id = submission_answers.org_id and s.id = submission_answers.submission_id
                          and s.status in ('draft', 'changes_requested')));
grant select, delete on public.submission_answers to authenticated;
grant insert (id, org_id, submission_id, question_id, parent_id, row_index, value) on public.submission_answers to authenticated;
grant update (value) on public.submission_answers to authenticated;

create policy submission_reviews_select on public.submission_reviews for select to authenticated
    using (org_id = (select app.active_org_id())
           and exists (select from public.submissions s where s.org_id = submission_reviews.org_id and s.id = submission_reviews.submission_id));
create policy submission_reviews_insert on public.submission_reviews for insert to authenticated
    with check (org_id = (select app.active_org_id()) and (select app.may('submissions:review'))
                -- Nobody but who runs the organisation decides about what they or their own client handed in.
                and exists (select from public.submissions s
                             where s.org_id = submission_reviews.org_id and s.id = submission_reviews.submission_id
                               and case when (select app.may('submissions:read_all')) then true
                                        else s.client_id = any ((select app.my_consulted_client_ids())::uuid[])
                                             and s.created_by is distinct from (select app.uid()) end));
grant select on public.submission_reviews to authenticated;
grant insert (id, org_id, submission_id, decision, feedback) on public.submission_reviews to authenticated;

-- The life cycle -----------------------------------------------------------------------------------------------------------

-- A review moves what it is about; the definer does it, and does nothing else here.
create policy submissions_definer_select on public.submissions for select to spine_definer using (true);
create policy submissions_definer_update on public.submissions for update to spine_definer using (true);
create policy template_questions_definer_select on public.template_questions for select to spine_definer using (true);
create policy submission_answers_definer_select on public.submission_answers for select to spine_definer using (true);
grant select on public.submissions, public.template_questions, public.submission_answers to spine_definer;
grant update (status, reviewed_at) on public.submissions to spine_definer;

reset role;
set local role spine_definer;

-- Runs as whoever writes, so that it knows a review from a person's own hand.
create function app.guard_submission() returns trigger language plpgsql set search_path = '' as $$
begin
    if (new.org_id, new.client_id, new.template_id) is distinct from (old.org_id, old.client_id, old.template_id) then
        raise exception using errcode = 'PT409', message = 'submission_moved',
            detail = 'A submission stays with its client and its template.';
    end if;
    if new.status = old.status then
        -- Who began it may be deleted; that is all.
        if old.status in ('approved', 'rejected')
           and (new.created_by is not null or old.created_by is null
                or to_jsonb(new) - array['created_by', 'updated_at'] <> to_jsonb(old) - array['created_by', 'updated_at']) then
            raise exception using errcode = 'PT409', message = 'submission_decided',
                detail = 'What was approved or rejected does not change any more.';
        end if;
        return new;
    end if;
    if current_user = 'spine_definer' and old.status = 'submitted' and new.status in ('changes_requested', 'approved', 'rejected') then
        new.reviewed_at := now();
        return new;
    end if;
    if current_user <> 'spine_definer' and old.status in ('draft', 'changes_requested') and new.status = 'submitted' then
        new.submitted_at := now();
        return new;
    end if;
    raise exception using errcode = 'PT409', message = 'submission_transition_refused',
        detail = format('A submission does not go from %s to %s this way.', old.status, new.status);
end
$$;

create function app.guard_new_submission() returns trigger language plpgsql set search_path = '' as $$
begin
    new.status := 'draft';
    new.submitted_at := null;
    new.reviewed_at := null;
    return new;
end
$$;

-- For every role, whatever its policies say. When the client itself goes, its submissions go with it.
create function app.keep_decided_submission() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if old.status in ('approved', 'rejected') and exists (select from public.clients c where c.org_id = old.org_id and c.id = old.client_id) then
        perform app.refuse('PT409', 'submission_decided', 'What was approved or rejected does not change any more.');
    end if;
    return old;
end
$$;

-- After the policies have let the row in, lest it tell of submissions that one may not know of.
create function app.guard_answer() returns trigger
    language plpgsql security definer set search_path = '' as $$
declare
    v_answer     public.submission_answers := case when tg_op = 'DELETE' then old else new end;
    v_submission public.submissions;
begin
    if tg_op = 'UPDATE' and (new.org_id, new.submission_id, new.question_id) is distinct from (old.org_id, old.submission_id, old.question_id) then
        perform app.refuse('PT409', 'answer_moved', 'An answer stays with its submission and its question.');
    end if;
    -- Held, so that no answer slips in while a review decides.
    select * into v_submission from public.submissions s
     where s.org_id = v_answer.org_id and s.id = v_answer.submission_id for no key update;
    if found and v_submission.status not in ('draft', 'changes_requested') then
        perform app.refuse('PT409', 'submission_not_open', 'Answers can be written before a submission is handed in, and when changes were asked for.');
    end if;
    if tg_op <> 'DELETE' and not exists (select from public.template_questions q
                                          where q.org_id = v_answer.org_id and q.id = v_answer.question_id
                                            and q.template_id = v_submission.template_id) then
        perform app.refuse('PT422', 'question_not_in_template', 'This question is not one of the submission''s template.');
    end if;
    -- Lets a delete go on; after an insert or update it says nothing.
    return v_answer;
end
$$;

-- Handed in is what answers everything that must be answered.
create function app.check_required() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if old.status <> 'submitted' and new.status = 'submitted' and exists (
        select from public.template_questions q
         where q.org_id = new.org_id and q.template_id = new.template_id and q.required
           and not exists (select from public.submission_answers a
                            where a.org_id = new.org_id and a.submission_id = new.id and a.question_id = q.id
                              and a.value not in ('null', '""', '[]'))) then
        perform app.refuse('PT422', 'answers_missing', 'A question that must be answered has no answer yet.');
    end if;
    return new;
end
$$;

-- What was handed in answers the question as it was asked.
create function app.keep_answered_question() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    if (new.label, new.options, new.kind) is distinct from (old.label, old.options, old.kind) and exists (
        select from public.submission_answers a join public.submissions s on s.org_id = a.org_id and s.id = a.submission_id
         where a.org_id = old.org_id and a.question_id = old.id and s.status in ('submitted', 'approved', 'rejected')) then
        perform app.refuse('PT409', 'question_answered', 'A submission that was handed in answers this question; add a new one instead.');
    end if;
    return new;
end
$$;

create function app.apply_review() returns trigger
    language plpgsql security definer set search_path = '' as $$
begin
    update public.submissions s set status = new.decision
     where s.org_id = new.org_id and s.id = new.submission_id and s.status = 'submitted';
    if not found then
        perform app.refuse('PT409', 'submission_not_submitted', 'Only what was handed in and not yet decided can be reviewed.');
    end if;
    return null;
end
$$;
grant execute on function app.guard_submission(), app.guard_new_submission(), app.keep_decided_submission(), app.guard_answer(),
    app.check_required(), app.keep_answered_question(), app.apply_review() to spine_owner;

reset role;
set local role spine_owner;

create trigger submissions_guard_new before insert on public.submissions for each row execute function app.guard_new_submission();
create trigger submissions_guard before update on public.submissions for each row execute function app.guard_submission();
create trigger submissions_keep_decided before delete on public.submissions for each row execute function app.keep_decided_submission();
create trigger submissions_required after update on public.submissions for each row execute function app.check_required();
create trigger template_questions_keep_answered before update on public.template_questions
    for each row execute function app.keep_answered_question();
create trigger submission_answers_guard after insert or update on public.submission_answers
    for each row execute function app.guard_answer();
create trigger submission_answers_guard_delete before delete on public.submission_answers
    for each row execute function app.guard_answer();
create trigger submission_reviews_apply after insert on public.submission_reviews for each row execute function app.apply_review();

create view public.submission_states with (security_invoker = true) as
select s.id, s.org_id, s.client_id, s.template_id, s.submitted_at, s.reviewed_at,
       case when not s.client_id = any ((select app.my_own_client_ids())::uuid[])
            then case s.status when 'draft' then 'with_client' when 'submitted' then 'to_review' when 'changes_requested' then 'with_client'
                               when 'approved' then 'approved' else 'rejected' end
            else case s.status when 'draft' then 'to_fill_in' when 'submitted' then 'being_reviewed' when 'changes_requested' then 'to_correct'
                               when 'approved' then 'accepted' else 'not_accepted' end
       end as state,
       (select r.feedback from public.submission_reviews r
         where r.org_id = s.org_id and r.submission_id = s.id order by r.created_at desc, r.id desc limit 1) as feedback
  from public.submissions s;
comment on view public.submission_states is 'One life cycle as each side sees it: what is to be done, by whom. The policies of submissions hold.';
grant select on public.submission_states to authenticated;

call app.audit_table('template_questions', 'id', 'template_id,position,kind,required');
call app.audit_table('submissions', 'id', 'client_id,template_id,status,created_by');
call app.audit_table('submission_answers', 'id', 'submission_id,question_id,parent_id,row_index');
call app.audit_table('submission_reviews', 'id', 'submission_id,reviewer_id,decision');
call app.audit_table('template_question_accounting', 'id', 'question_id,event,account,side,vat_code,voucher_series');

do $$
declare
    touched text;
begin
    foreach touched in array array['template_questions', 'submissions', 'submission_answers', 'template_question_accounting'] loop
        execute format('create trigger %I before update on public.%I for each row execute function app.touch_updated_at()', touched || '_touch', touched);
    end loop;
end
$$;

alter table public.data_ownership no force row level security;
insert into public.data_ownership (table_name, column_name, owner) values
    ('submissions', 'submitted_at', 'system'), ('submissions', 'reviewed_at', 'system');
insert into public.data_ownership (table_name, owner) values
    ('template_questions', 'human'), ('submissions', 'human'), ('submission_answers', 'human'), ('submission_reviews', 'human'),
    ('template_question_accounting', 'human');
alter table public.data_ownership force row level security;

reset role;
