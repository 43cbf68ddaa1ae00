-- Find the days, weeks and months of a time zone.
--
-- Locks:   none.
-- Rollout: expand.
-- Undo:    drop the functions of this file.

set local role spine_definer;

-- The first instant of a day in a zone. `at time zone` resolves a midnight that a clock change skips to the change itself, and one that comes
-- twice to the later; there the day has begun at the earlier, which has the offset that was in force just before the later.
create function app.day_start(p_day date, p_zone text) returns timestamptz
    language sql immutable strict set search_path = '' as $$
    select case when c.early < c.late and c.early at time zone p_zone = p_day::timestamp then c.early else c.late end
      from (select b.late, (p_day::timestamp - (b.before at time zone p_zone - b.before at time zone 'UTC')) at time zone 'UTC' as early
              from (select a.late, a.late - interval '1 microsecond' as before
                      from (select p_day::timestamp at time zone p_zone as late) a) b) c
$$;
comment on function app.day_start(date, text) is 'The instant at which a day begins in a time zone.';

-- The day, week (from Monday on) or month of a zone that an instant lies in: when it starts and ends, and its first day. Windows of one
-- zone and period have neither gap nor overlap, however clocks change there: the end of each is computed as the start of the next.
create function app.zone_period(p_period text, p_at timestamptz, p_zone text,
                                out period_start timestamptz, out period_end timestamptz, out first_day date)
    language plpgsql immutable strict set search_path = '' as $$
declare
    v_step interval := ('1 ' || p_period)::interval;
begin
    if p_period not in ('day', 'week', 'month') or not isfinite(p_at) then
        raise exception 'a zone has days, weeks and months, and no end' using errcode = 'invalid_parameter_value';
    end if;
    first_day := date_trunc(p_period, p_at at time zone p_zone)::date;
    period_start := app.day_start(first_day, p_zone);
    -- Where clocks go back over midnight, or a date is skipped, the local date alone may be the one before or after.
    while p_at < period_start loop
        first_day := (first_day - v_step)::date;
        period_start := app.day_start(first_day, p_zone);
    end loop;
    loop
        period_end := app.day_start((first_day + v_step)::date, p_zone);
        exit when p_at < period_end;
        first_day := (first_day + v_step)::date;
        period_start := period_end;
    end loop;
end
$$;
comment on function app.zone_period(text, timestamptz, text) is 'The day, week or month of a time zone that an instant lies in.';

-- The starts of so many periods before one that begins with this day, the earliest first, and the names of their first days.
create function app.zone_starts(p_period text, p_until date, p_many integer, p_zone text, out starts timestamptz[], out labels text[])
    language sql immutable strict set search_path = '' as $$
    select array_agg(app.day_start(d.day, p_zone) order by d.n desc), array_agg(to_char(d.day, 'YYYY-MM-DD') order by d.n desc)
      from (select n, (p_until - ('1 ' || p_period)::interval * n)::date as day from generate_series(1, p_many) n) d
$$;
comment on function app.zone_starts(text, date, integer, text) is 'When so many periods of a time zone began that came before one.';

-- Whether an organisation may have this zone: a name of the tz database as the server spells it, with a slash, or UTC. Postgres itself takes
-- more, which clients do not know or know otherwise: abbreviations, made-up POSIX rules such as `Sthlm+1`, names in any case, and the
-- directories posix/ and right/, of which the second counts leap seconds. The view reads every file of the tz database: ask it only of a
-- name that is another.
create function app.is_time_zone(p_name text) returns boolean
    language sql stable set search_path = '' as $$
    select case
        when p_name = 'UTC' then true
        when p_name is null or p_name !~ '^[A-Z][A-Za-z]*(/[A-Za-z0-9_+-]+)+$' or length(p_name) > 64 then false
        else exists (select from pg_catalog.pg_timezone_names z where z.name = p_name)
    end
$$;
comment on function app.is_time_zone(text) is 'Whether this names a time zone of the tz database, with a slash, or UTC.';

-- Figures are computed as the caller.
grant execute on function app.day_start(date, text), app.zone_period(text, timestamptz, text), app.zone_starts(text, date, integer, text)
    to authenticated, spine_service;

reset role;
