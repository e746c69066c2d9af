#!/usr/bin/python
"""Say what speaks against using a PostgreSQL database, all at once, without changing anything."""

from urllib.parse import parse_qs, unquote, urlsplit

from ansible.module_utils.basic import AnsibleModule

try:
    import psycopg
except ImportError:
    psycopg = None

DOCUMENTATION = """
module: database_look
short_description: List what speaks against using a PostgreSQL database
options:
  url: {description: "The database, as postgresql://USER:PASSWORD@HOST:PORT/NAME.", type: str, required: true}
  tls: {description: Whether TLS must protect the connection., type: bool, required: true}
  oldest_version: {description: The oldest major version that will do., type: int, required: true}
  makes_tables: {description: Whether the role migrates., type: bool, default: true}
  used_by: {description: The role that reads and writes rows in the tables that this one makes., type: str, default: ""}
"""
CONNECT_SECONDS = 5
FORM = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
PROTECTED = ("require", "verify-ca", "verify-full")
LOOK = """
SELECT
    current_setting('server_version_num')::int / 10000,
    current_setting('server_version'),
    current_user,
    current_database(),
    current_schema(),
    has_schema_privilege(current_schema(), 'CREATE'),
    current_setting('transaction_read_only')::bool,
    (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
    current_setting('server_encoding')
"""
# What the role that uses the tables may do with those that this one will make, where it is not a member of it.
GRANTED = """
SELECT
    EXISTS (SELECT FROM pg_roles WHERE rolname = %(user)s),
    coalesce((SELECT pg_has_role(oid, current_user, 'USAGE') FROM pg_roles WHERE rolname = %(user)s), false),
    ARRAY(
        SELECT concat_ws(' ', acl.defaclobjtype, one.privilege_type)
        FROM pg_default_acl AS acl, aclexplode(acl.defaclacl) AS one
        WHERE
            acl.defaclrole = current_user::regrole
            AND acl.defaclnamespace IN (0, current_schema()::regnamespace)
            AND (one.grantee = 0 OR one.grantee = (SELECT oid FROM pg_roles WHERE rolname = %(user)s))
    )
"""
NEEDED = {"r SELECT", "r INSERT", "r UPDATE", "r DELETE", "S USAGE"}


def check_url(url, tls):
    """Name what is missing in the URL itself."""
    try:
        parts = urlsplit(url)
        missing = [
            name
            for name, value in (
                ("USER", parts.username),
                ("PASSWORD", parts.password),
                ("HOST", parts.hostname),
                ("NAME", parts.path.strip("/")),
            )
            if not value
        ]
        modes = parse_qs(parts.query).get("sslmode", [])
        port = parts.port or 5432
    except ValueError:
        parts, missing, modes, port = None, [], [], 0
    if parts is None or parts.scheme not in ("postgresql", "postgres") or not port:
        yield f"The URL is not one of PostgreSQL. Give {FORM}, with %-codes for @ : / % ? in the password."
        return
    if missing:
        yield f"The URL has no {', no '.join(missing)}. Give {FORM}."
    if tls and (not modes or modes[-1] not in PROTECTED):
        yield (
            f"The URL does not insist on TLS (sslmode={modes[-1] if modes else 'prefer'}). Append "
            "?sslmode=verify-full&sslrootcert=FILE with the server's CA certificate; without one, ?sslmode=require."
        )


def check_server(url, tls, oldest_version, makes_tables, used_by):
    """Name what the server says against it; where it does not answer, that alone."""
    try:
        with psycopg.connect(url, connect_timeout=CONNECT_SECONDS, application_name="athena-look") as connection:
            row = connection.execute(LOOK).fetchone()
            granted = connection.execute(GRANTED, {"user": used_by}).fetchone() if used_by and row[4] else None
    except psycopg.Error as error:
        yield f"The database does not let us in. {remedy(' '.join(str(error).split()))}"
        return
    major, version, user, database, schema, may_create, read_only, protected, encoding = row
    if major < oldest_version:
        yield f"PostgreSQL {version} is too old: {oldest_version} or newer is needed. Upgrade it, or name another."
    if tls and not protected:
        yield "The connection is not protected by TLS. Switch it on in the server: ssl = on, hostssl in pg_hba.conf."
    if read_only:
        yield f"The database {database} can only be read: it is a standby, or read-only by default. Name the primary."
    if schema is None:
        yield f"The role {user} has no schema: CREATE SCHEMA AUTHORIZATION {user}, or mend its search_path."
    elif makes_tables and not may_create:
        grant = f"GRANT CREATE ON SCHEMA {schema} TO {user}"
        yield f"The role {user} may not make tables in the schema {schema}. As its owner: {grant};"
    if granted is not None:
        yield from check_grants(granted, user, schema, used_by)
    if encoding != "UTF8":
        yield f"The database {database} is encoded in {encoding}. Make one with ENCODING 'UTF8' TEMPLATE template0."


def check_grants(granted, owner, schema, used_by):
    """Name what keeps the role that uses the tables from those that the owner will make."""
    is_there, is_member, privileges = granted
    if not is_there:
        yield f"There is no role {used_by}. Make it, or mend its URL."
    elif not is_member and NEEDED - set(privileges):
        make = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT"
        yield (
            f"The role {used_by} could not use the tables that {owner} will make. As {owner}: "
            f"{make} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {used_by}; {make} USAGE ON SEQUENCES TO {used_by};"
        )


def remedy(said):
    """Return what the driver said, with what to do about it."""
    for words, advice in (
        ("password authentication failed", "Mend user and password in the URL."),
        ("no pg_hba.conf entry", "Let this host and role in with a line of pg_hba.conf; it may ask for TLS (hostssl)."),
        ("certificate", "Name the server's CA certificate in sslrootcert, and the host as its certificate does."),
        ("does not exist", "Make it, or mend the URL."),
        ("does not support SSL", "Switch TLS on in the server (ssl = on)."),
    ):
        if words in said:
            return f"{said}. {advice}"
    return f"{said}. See that the server runs, listens on that address and port, and that no firewall is between."


def main():
    """Look, and answer with the list."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True, "no_log": True},
            "tls": {"type": "bool", "required": True},
            "oldest_version": {"type": "int", "required": True},
            "makes_tables": {"type": "bool", "default": True},
            "used_by": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    asked = module.params
    url, tls = asked["url"].strip(), asked["tls"]
    hide_password(module, url)
    problems = list(check_url(url, tls))
    if psycopg is None:
        problems.append("This Python has no psycopg. Name that of a service package in postgresql_external_python.")
    elif not problems or "insist on TLS" in problems[0]:
        problems += check_server(url, tls, asked["oldest_version"], asked["makes_tables"], asked["used_by"])
    module.exit_json(changed=False, problems=problems)


def hide_password(module, url):
    """Keep the password out of the answer, whatever a driver quotes of the URL."""
    _, _, rest = url.partition("://")
    _, _, password = rest.rpartition("@")[0].partition(":")
    module.no_log_values.update(text for text in (password, unquote(password)) if text)


if __name__ == "__main__":
    main()
