"""Checks what is inside a guest image: `image-check.py images/NAME.json`, and `image-check.py A.json B.json` compares two.

Called by test-images.sh. Prints each finding, and ends with 1 when there is one.
"""

import hashlib
import json
import os
import re
import sys
import tarfile

# Programs that gain rights, each for a reason: the accounts' own (passwd, su, mount ... of Debian's essential packages).
SETUID = {
    "usr/bin/chage",
    "usr/bin/chfn",
    "usr/bin/chsh",
    "usr/bin/expiry",
    "usr/bin/gpasswd",
    "usr/bin/mount",
    "usr/bin/newgrp",
    "usr/bin/passwd",
    "usr/bin/su",
    "usr/bin/umount",
    "usr/lib/dbus-1.0/dbus-daemon-launch-helper",
    "usr/lib/mysql/plugin/auth_pam_tool_dir/auth_pam_tool",
    "usr/sbin/unix_chkpwd",
}
# The contract with compute drivers: mode, owner, group.
CONTRACT = {
    "etc/trove-agent": (0o700, 0, 0),
    "etc/trove-engine": (0o750, 0, 2000),
    "run/trove-engine": (0o700, 2000, 2000),
    "usr/bin/trove-agent": (0o755, 0, 0),
    "var/lib/trove-agent": (0o700, 0, 0),
    "var/lib/trove-data": (0o711, 0, 0),
    "var/log/trove-engine": (0o700, 0, 0),
}
# What may differ between two bakes of the same packages; docs/images.md gives the reasons.
DIFFERENT = re.compile(
    r"var/lib/systemd/catalog/database|var/cache/debconf/.*|etc/ld\.so\.cache"
)
# With its contents: libraries have the line before it among their texts.
KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----\s+([A-Za-z0-9+/=]{40}|Proc-Type|DEK-Info)")
# Where packages bring keys that are examples or tests, and no secret.
EXAMPLES = re.compile(r"usr/(share|lib)/.*(test|example|doc|perl).*")


class Image:
    """The contents of an image's tar."""

    def __init__(self, description):
        directory = os.path.dirname(description)
        with open(description, encoding="utf-8") as file:
            self.description = json.load(file)
        described = next(file for file in self.description["files"] if file["format"] in ("docker", "tar"))
        self.path = os.path.join(directory, described["path"])
        self.described = described
        self.directory = directory
        self.entries = {}
        self.sums = {}
        self.keys = []
        self.texts = {}
        with tarfile.open(self.path) as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                self.entries[name] = entry
                if entry.isfile():
                    contents = tar.extractfile(entry).read()
                    self.sums[name] = hashlib.sha256(contents).hexdigest()
                    if len(contents) < 1 << 20:
                        if KEY.search(contents):
                            self.keys.append(name)
                        if name.startswith("etc/"):
                            self.texts[name] = contents.decode(errors="replace")

    def exists(self, pattern):
        return [name for name in self.entries if re.fullmatch(pattern, name)]


def findings(image):
    """All that is wrong with the image, as sentences."""
    yield from identities(image)
    yield from accounts(image)
    yield from rights(image)
    yield from services(image)
    yield from papers(image)


def identities(image):
    for name in image.keys:
        if not EXAMPLES.fullmatch(name):
            yield f"{name} holds a private key"
    if image.texts.get("etc/machine-id", "").strip():
        yield "etc/machine-id is not empty"
    for pattern in (r"etc/hostname", r"etc/ssh/ssh_host_.*", r"var/lib/dbus/machine-id", r"var/lib/systemd/random-seed",
                    r"(root|home/[^/]*)/\.ssh/.*", r"etc/dib-manifests.*", r"var/lib/mysql/.+", r"var/lib/postgresql/\d.*"):
        for name in image.exists(pattern):
            yield f"{name} must not be in an image"
    for name in image.exists(r"etc/trove-agent/.+"):
        if name != "etc/trove-agent/fetch":
            yield f"{name} is for one guest and must not be in an image"


def accounts(image):
    if "\nos_admin:x:2000:2000::/nonexistent:/usr/sbin/nologin\n" not in image.texts["etc/passwd"]:
        yield "etc/passwd has no account os_admin 2000:2000 without home and shell"
    for line in image.texts["etc/shadow"].splitlines():
        account, password = line.split(":")[:2]
        if not re.fullmatch(r"[!*]+", password):
            yield f"the account {account} has a password"
    for name, text in image.texts.items():
        if name.startswith("etc/sudoers") and "NOPASSWD" in text:
            yield f"{name} gives rights without a password"


def rights(image):
    for name, entry in image.entries.items():
        if entry.isfile() and entry.mode & 0o4000 and name not in SETUID:
            yield f"{name} is setuid and not on the list"
        if entry.isfile() and entry.mode & 0o0002:
            yield f"{name} can be written by everybody"
    for name, expected in CONTRACT.items():
        entry = image.entries.get(name)
        if entry is None:
            yield f"{name} is missing"
        elif (entry.mode & 0o7777, entry.uid, entry.gid) != expected:
            yield f"{name} is {entry.mode & 0o7777:o} of {entry.uid}:{entry.gid}, not {expected[0]:o} of {expected[1]}:{expected[2]}"


def services(image):
    for name in image.exists(r"usr/sbin/(sshd|policy-rc\.d)"):
        yield f"{name} must not be in an image"
    wanted = [name.rsplit("/", 1)[1] for name in image.exists(r"etc/systemd/system/[^/]*\.wants/.*")]
    masked = [name.rsplit("/", 1)[1] for name, entry in image.entries.items()
              if re.fullmatch(r"etc/systemd/system/[^/]*", name) and entry.issym() and entry.linkname == "/dev/null"]
    for unit in wanted:
        if re.match(r"(postgresql|mariadb|mysql|redis|valkey|mongod)", unit) and unit not in masked:
            yield f"{unit} starts by itself"
    for unit in ("trove-agent.service", "trove-first-boot.service"):
        if unit not in wanted:
            yield f"{unit} is not enabled"


def papers(image):
    """Description, checksums and list of packages."""
    description, name = image.description, image.description["name"]
    if sha256(image.path) != image.described["sha256"] or os.path.getsize(image.path) != image.described["size"]:
        yield "the description has another checksum or size than the image"
    with open(os.path.join(image.directory, f"{name}.sha256"), encoding="utf-8") as file:
        for line in file:
            digest, path = line.split()
            if sha256(os.path.join(image.directory, path)) != digest:
                yield f"{path} has another checksum than {name}.sha256 says"
    if description["manifest"]["installation"]["version"] != description["version"]:
        yield "the version is not the manifest's"
    if not description["manifest"].get("parameters"):
        yield "the manifest has no parameters"
    with open(os.path.join(image.directory, description["packages"]), encoding="utf-8") as file:
        spdx = json.load(file)
    listed = {package["name"] for package in spdx["packages"] if package["SPDXID"].startswith("SPDXRef-deb-")}
    installed = {name.rsplit("/", 1)[1].removesuffix(".list").split(":")[0]
                 for name in image.exists(r"var/lib/dpkg/info/.*\.list")}
    for package in sorted(listed ^ installed):
        yield f"the package {package} is in one of the image and its SPDX list only"


def differences(one, two):
    """What differs between two images, as sentences; and how many differences are expected ones."""
    found, expected = [], 0
    for name in sorted(one.entries.keys() | two.entries.keys()):
        a, b = one.entries.get(name), two.entries.get(name)
        if a is None or b is None:
            what = "is in one only"
        elif (a.type, a.mode, a.uid, a.gid, a.linkname) != (b.type, b.mode, b.uid, b.gid, b.linkname):
            what = "has another kind, mode, owner or target"
        elif one.sums.get(name) != two.sums.get(name):
            what = "has other contents"
        else:
            continue
        if DIFFERENT.fullmatch(name):
            expected += 1
        else:
            found.append(f"{name} {what}")
    return found, expected


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main():
    images = [Image(path) for path in sys.argv[1:]]
    if len(images) == 2:
        found, expected = differences(*images)
        print(f"two bakes of {images[0].description['name']}: {expected} differences that are listed, {len(found)} others")
    else:
        found = [sentence for image in images for sentence in findings(image)]
    for sentence in found:
        print(f"image: {sentence}", file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
