-- Take blank text for no value: an empty field of a form is not an e-mail address, and no territory that a person could cover.
--
-- Locks:   leads, lead_capacity, clients, client_accounting, profiles, projects, project_tags, blog_tags, blog_categories, social_lead_rules and
--          template_question_accounting exclusively, while blank values are emptied and a trigger is made.
-- Rollout: expand. What is blank in a column that may be empty becomes null; in one that may not it is refused from now on.
-- Undo:    drop the triggers and functions of this file. What was emptied stays empty.

set local role spine_owner;

create function app.is_blank(p_text text) returns boolean language sql immutable parallel safe return app.fold(p_text) = '';
comment on function app.is_blank(text) is 'Whether a text has nothing in it that is seen. Null for null.';

create function app.has_blank(p_texts text[]) returns boolean language sql immutable parallel safe
    return exists (select from unnest(p_texts) t where app.fold(t) = '' or t is null);
comment on function app.has_blank(text[]) is 'Whether one of the texts has nothing in it that is seen.';

create function app.without_blanks(p_texts text[]) returns text[] language sql immutable parallel safe
    return array(select t from unnest(p_texts) with ordinality u (t, place) where app.fold(t) <> '' order by place);
comment on function app.without_blanks(text[]) is 'The texts that have something in them, in their order.';
-- A trigger asks them as the role that writes.
grant execute on function app.is_blank(text), app.has_blank(text[]), app.without_blanks(text[]) to public;

reset role;
set local role spine_definer;

-- The arguments are names of columns. As the definer, since people have no use of the schema app. It reads no table.
create function app.empty_blanks() returns trigger language plpgsql security definer set search_path = '' as $$
declare
    v_row  jsonb := to_jsonb(new);
    v_name text;
begin
    foreach v_name in array tg_argv loop
        if jsonb_typeof(v_row -> v_name) = 'array' then
            new := jsonb_populate_record(new, jsonb_build_object(v_name, to_jsonb(app.without_blanks(
                       array(select e from jsonb_array_elements_text(v_row -> v_name) e)))));
        elsif app.is_blank(v_row ->> v_name) then
            new := jsonb_populate_record(new, jsonb_build_object(v_name, null));
        end if;
    end loop;
    return new;
end
$$;
comment on function app.empty_blanks() is 'Makes null of blank text in the columns that are named, and leaves it out of lists.';
grant execute on function app.empty_blanks() to spine_owner;

reset role;
set local role spine_owner;

-- Has blank text in these columns of a table taken for none, and empties what is blank there now.
create procedure app.empty_blanks_of(p_table text, p_columns text[]) language plpgsql set search_path = '' as $$
declare
    v_column text;
    v_is     text[] := '{}';
    v_test   text;
    v_list   boolean;
    v_null   boolean;
begin
    execute format('alter table public.%I no force row level security', p_table);
    foreach v_column in array p_columns loop
        select a.atttypid = 'text[]'::regtype, not a.attnotnull into strict v_list, v_null
          from pg_catalog.pg_attribute a where a.attrelid = format('public.%I', p_table)::regclass and a.attname = v_column;
        v_test := format(case when v_list then 'app.has_blank(%s%I)' else 'app.is_blank(%s%I)' end, 'new.', v_column);
        v_is := v_is || v_test;
        if v_list then
            execute format('update public.%1$I t set %2$I = app.without_blanks(t.%2$I) where app.has_blank(t.%2$I)', p_table, v_column);
        elsif v_null then
            execute format('update public.%1$I t set %2$I = null where app.is_blank(t.%2$I)', p_table, v_column);
        end if;
    end loop;
    execute format('alter table public.%I force row level security', p_table);
    -- Named so that it comes before the other triggers of a row.
    execute format('create trigger a_empty_blanks before insert or update of %2$s on public.%1$I for each row when (%3$s) execute function app.empty_blanks(%4$s)',
                   p_table, (select string_agg(quote_ident(c), ', ') from unnest(p_columns) c), array_to_string(v_is, ' or '),
                   (select string_agg(quote_literal(c), ', ') from unnest(p_columns) c));
end
$$;
comment on procedure app.empty_blanks_of(text, text[]) is 'Has blank text in these columns taken for none. For migrations.';

call app.empty_blanks_of('leads', '{client_name,email,phone,territory,wanted_skills}');
call app.empty_blanks_of('lead_capacity', '{skills,territories}');
call app.empty_blanks_of('clients', '{name,email,phone,address,org_number}');
call app.empty_blanks_of('client_accounting', '{customer_number}');
call app.empty_blanks_of('profiles', '{full_name,phone}');
call app.empty_blanks_of('projects', '{title,category}');
call app.empty_blanks_of('project_tags', '{tag}');
call app.empty_blanks_of('blog_tags', '{tag}');
call app.empty_blanks_of('blog_categories', '{name}');
call app.empty_blanks_of('social_lead_rules', '{territory,wanted_skills}');
call app.empty_blanks_of('template_question_accounting', '{vat_code,voucher_series,cost_center}');

reset role;
