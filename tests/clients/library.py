"""python-troveclient as a library: what a program does with it."""

import sys
import time

import openstack
from troveclient.apiclient import exceptions
from troveclient.v1 import client


def until(seen, seconds=90):
    end = time.monotonic() + seconds
    while True:
        try:
            value = seen()
        except exceptions.UnprocessableEntity as refused:
            # What is asked of an engine waits for the changes before it, and is refused when they take long.
            assert "is not ready" in str(refused), refused
            value = None
        if value:
            return value
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


def active(trove, instance):
    found = trove.instances.get(instance)
    assert found.status != "ERROR", found.fault
    return found.status == "ACTIVE" and found.operating_status == "HEALTHY" and found


def main(cloud):
    session = openstack.connect(cloud=cloud).session
    trove = client.Client(session=session, service_type="database", region_name="RegionOne")

    [datastore, _] = trove.datastores.list()
    assert datastore.name == "postgresql", datastore
    versions = trove.datastore_versions.list(datastore.id)
    assert datastore.default_version in [version.id for version in versions]
    assert trove.datastore_versions.get(datastore.id, versions[0].name).id == versions[0].id
    absolute = trove.limits.list()[0]
    assert absolute.verb == "ABSOLUTE" and absolute.max_instances == 10, absolute.to_dict()

    ordered = trove.instances.create(
        "library", 1, volume={"size": 1}, datastore=datastore.name,
        databases=[{"name": "one"}], users=[{"name": "u1", "password": "Library-u1", "databases": [{"name": "one"}]}],
        nics=[{"net-id": "7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1"}],
        access={"is_public": False, "allowed_cidrs": ["10.0.0.0/8"]},
    )
    assert ordered.status == "BUILD"
    instance = until(lambda: active(trove, ordered))
    assert instance.addresses[0]["network"] == "7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1", instance.addresses
    assert instance.access["allowed_cidrs"] == ["10.0.0.0/8"], instance.access

    trove.databases.create(instance, [{"name": "two"}, {"name": "three"}])
    until(lambda: [found.name for found in trove.databases.list(instance)] == ["one", "three", "two"])
    page = trove.databases.list(instance, limit=2)
    assert [found.name for found in page] == ["one", "three"] and page.next, page.next
    rest = trove.databases.list(instance, limit=2, marker=page.next)
    assert [found.name for found in rest] == ["two"] and not rest.next

    trove.users.create(instance, [{"name": "u.2@x", "password": "Library-u2", "databases": [{"name": "two"}]}])
    until(lambda: len(trove.users.list(instance)) == 2)
    assert [found.name for found in trove.users.list_access(instance, "u1")] == ["one"]
    trove.users.grant(instance, "u1", ["three"])
    until(lambda: [found.name for found in trove.users.list_access(instance, "u1")] == ["one", "three"])
    trove.users.revoke(instance, "u1", "one")
    until(lambda: [found.name for found in trove.users.list_access(instance, "u1")] == ["three"])
    trove.users.update_attributes(instance, "u1", newuserattr={"name": "u1b", "password": "Library-u1b"})
    until(lambda: "u1b" in [found.name for found in trove.users.list(instance)])
    trove.users.change_passwords(instance, [{"name": "u1b", "password": "Library-u1c"}])
    assert trove.users.get(instance, "u1b").name == "u1b"
    trove.users.delete(instance, "u1b")
    until(lambda: "u1b" not in [found.name for found in trove.users.list(instance)])

    assert trove.root.is_root_enabled(instance).rootEnabled is False
    name, password = trove.root.create(instance)
    assert name == "root" and password
    assert trove.root.is_root_enabled(instance).rootEnabled is True
    trove.root.disable_instance_root(instance)
    until(lambda: trove.root.is_root_enabled(instance).rootEnabled is False)

    trove.instances.update(instance, name="library-renamed")
    assert trove.instances.get(instance).name == "library-renamed"
    trove.instances.restart(instance)
    until(lambda: active(trove, instance))

    try:
        trove.instances.get("7dcd5e5a-27b1-4e22-b5ba-4b1d0a9ba2b1")
        raise AssertionError("an instance that does not exist was found")
    except exceptions.NotFound:
        pass
    try:
        trove.instances.create("bad", "no-such-flavor", volume={"size": 1})
        raise AssertionError("an order with a wrong flavor was accepted")
    except exceptions.BadRequest as error:
        assert "flavor" in str(error).lower(), error

    trove.instances.delete(instance)
    until(lambda: instance.id not in [found.id for found in trove.instances.list()])
    print("done")


main(sys.argv[1])
