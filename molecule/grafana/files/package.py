"""Make a .deb with the files and the unit of Grafana's, and a stand-in for its program.

usage: package.py VERSION FOLDER
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UNIT = """\
[Unit]
Description=Grafana instance
After=network-online.target

[Service]
EnvironmentFile=/etc/default/grafana-server
User=grafana
Group=grafana
Type=notify
Restart=on-failure
WorkingDirectory=/usr/share/grafana
RuntimeDirectory=grafana
RuntimeDirectoryMode=0750
ExecStart=/usr/share/grafana/bin/grafana server --config=${CONF_FILE} --pidfile=${PID_FILE_DIR}/grafana-server.pid \
 --packaging=deb cfg:default.paths.logs=${LOG_DIR} cfg:default.paths.data=${DATA_DIR} \
 cfg:default.paths.plugins=${PLUGINS_DIR} cfg:default.paths.provisioning=${PROVISIONING_CFG_DIR}

[Install]
WantedBy=multi-user.target
"""
INSTALLED = """\
#!/bin/sh
set -e
getent passwd grafana >/dev/null || useradd --system --home-dir /usr/share/grafana --shell /bin/false grafana
mkdir -p /var/lib/grafana/plugins /var/log/grafana
chown -R grafana:grafana /var/lib/grafana /var/log/grafana
chown root:grafana /etc/grafana /etc/grafana/grafana.ini
chmod 755 /etc/grafana
"""


def main(version: str, folder: Path) -> None:
    """Write the package, and its SHA-256 beside it."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "grafana"
        files = {
            "DEBIAN/control": f"Package: grafana\nVersion: {version}\nArchitecture: all\nDepends: python3\n"
            "Maintainer: this scenario\nDescription: A stand-in for Grafana.\n",
            "DEBIAN/conffiles": "/etc/default/grafana-server\n/etc/grafana/grafana.ini\n",
            "DEBIAN/postinst": INSTALLED,
            "etc/default/grafana-server": "GRAFANA_USER=grafana\nCONF_FILE=/etc/grafana/grafana.ini\n",
            "etc/grafana/grafana.ini": "; as the package has it\n",
            "usr/lib/systemd/system/grafana-server.service": UNIT,
            "usr/share/grafana/VERSION": f"{version}\n",
        }
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (root / "usr/share/grafana/bin").mkdir()
        shutil.copy(Path(__file__).with_name("grafana.py"), root / "usr/share/grafana/bin/grafana")
        for executable in ("DEBIAN/postinst", "usr/share/grafana/bin/grafana"):
            (root / executable).chmod(0o755)
        package = folder / f"grafana_{version}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, package], check=True)
    Path(f"{package}.sha256").write_text(hashlib.sha256(package.read_bytes()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
