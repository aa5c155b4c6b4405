"""openstacksdk against the service: everything that its database proxy does and that is built here."""

import sys
import time

import openstack


def main(cloud):
    connection = openstack.connect(cloud=cloud)
    database = connection.database

    flavors = {flavor.name: flavor for flavor in database.flavors()}
    assert flavors, "no flavors"
    small = min(flavors.values(), key=lambda flavor: flavor.ram)
    assert database.get_flavor(small.id).ram == small.ram

    instance = database.create_instance(
        name="sdk", flavor=str(small.id), volume={"size": 1}, datastore={"type": "postgresql"}
    )
    assert instance.status == "BUILD", instance
    instance = database.wait_for_status(instance, status="ACTIVE", failures=["ERROR"], interval=0.2, wait=90)
    assert [found.id for found in database.instances()] == [instance.id]
    assert [found.id for found in database.instances(limit=1)] == [instance.id]
    assert database.find_instance("sdk").id == instance.id

    database.update_instance(instance, name="sdk-renamed")
    assert database.get_instance(instance.id).name == "sdk-renamed"

    database.create_database(instance, name="sdkdb")
    until(lambda: [found.name for found in database.databases(instance)] == ["sdkdb"])
    database.create_user(instance, name="sdkuser", password="Sdk-user-1", databases=[{"name": "sdkdb"}])
    until(lambda: [found.name for found in database.users(instance)] == ["sdkuser"])

    assert instance.is_root_enabled(database) is False
    root = instance.enable_root_user(database)
    assert root["name"] == "root" and root["password"], root
    assert instance.is_root_enabled(database) is True

    instance.restart(database)
    until(lambda: database.get_instance(instance.id).status == "ACTIVE")

    database.delete_user("sdkuser", instance=instance)
    until(lambda: "sdkuser" not in [found.name for found in database.users(instance)])
    database.delete_database("sdkdb", instance=instance)
    until(lambda: not list(database.databases(instance)))

    database.delete_instance(instance)
    database.wait_for_delete(instance, interval=0.2, wait=90)
    print("done")


def until(seen, seconds=30):
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


main(sys.argv[1])
