-- What PostgreSQL would refuse in its files, and whether one of them was written after it had read them.
SELECT
    ARRAY(
        SELECT concat_ws(' ', file.sourcefile, 'line', file.sourceline, file.name, file.error)
        FROM pg_file_settings AS file
        LEFT JOIN pg_settings AS known ON known.name = lower(file.name)
        WHERE
            file.error IS NOT NULL
            -- What takes a restart cannot be applied now; that is no mistake.
            AND known.context IS DISTINCT FROM 'postmaster'
        UNION ALL
        SELECT concat_ws(' ', 'pg_hba.conf line', line_number, error)
        FROM pg_hba_file_rules
        WHERE error IS NOT NULL
    ) AS refused,
    EXISTS (
        SELECT FROM string_to_table(%(files)s, ',') AS path
        WHERE (pg_stat_file(path)).modification > pg_conf_load_time()
    ) AS unread
