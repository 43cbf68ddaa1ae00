-- Take back what the baseline opened of tables, sequences and functions that are not Spine's.
--
-- Locks:   none.
-- Rollout: contract, of what Spine has no use for: what it makes belongs to spine_owner, which the baseline's default privileges never
--          were for. On Supabase they are the platform's, and stay.
-- Undo:    alter default privileges in schema public grant all on tables, sequences and functions to anon, authenticated, service_role.

do $$
declare
    v_kind text;
begin
    if exists (select from pg_catalog.pg_roles where rolname = 'supabase_admin') then
        return;
    end if;
    foreach v_kind in array array['tables', 'sequences', 'functions'] loop
        execute format('alter default privileges in schema public revoke all on %s from anon, authenticated, service_role', v_kind);
    end loop;
end
$$;
