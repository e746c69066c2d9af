-- Whether everybody has what postgresql_privileges declares, and nobody else has it by PUBLIC: one question, where a look at
-- each takes seconds.
SELECT
    has_database_privilege(application.oid, datname, 'CONNECT')
    AND has_schema_privilege(application.oid, nspname, 'USAGE')
    AND NOT EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0)
    AND NOT EXISTS (SELECT FROM aclexplode(coalesce(nspacl, acldefault('n', nspowner))) WHERE grantee = 0)
    AND NOT EXISTS (
        SELECT FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted
        WHERE relnamespace = schema.oid AND relkind IN ('r', 'v', 'm', 'p', 'f')
            AND NOT has_table_privilege(application.oid, pg_class.oid, wanted)
    )
    AND NOT EXISTS (
        SELECT FROM pg_class, unnest(ARRAY['USAGE', 'SELECT']) AS wanted
        WHERE relnamespace = schema.oid AND relkind = 'S'
            AND NOT has_sequence_privilege(application.oid, pg_class.oid, wanted)
    )
    AND NOT EXISTS (
        SELECT wanted.kind, wanted.privilege
        FROM (
            VALUES ('r', 'SELECT'), ('r', 'INSERT'), ('r', 'UPDATE'), ('r', 'DELETE'), ('S', 'USAGE'), ('S', 'SELECT')
        ) AS wanted (kind, privilege)
        EXCEPT
        SELECT defaclobjtype::text, privilege_type
        FROM pg_default_acl, aclexplode(defaclacl)
        WHERE defaclrole = owner.oid AND defaclnamespace = schema.oid AND grantee = application.oid
    ) AS as_declared
FROM pg_database
JOIN pg_namespace AS schema ON nspname = 'public'
JOIN pg_roles AS application ON application.rolname = %(application)s
JOIN pg_roles AS owner ON owner.rolname = %(owner)s
WHERE datname = current_database()
