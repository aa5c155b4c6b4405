"""Pages of every size as openstacksdk and python-troveclient ask for them: each name is seen once."""

import sys

import openstack
from troveclient.v1 import client


def paged(ask):
    found, marker = [], None
    while True:
        page = ask(marker)
        found += [item.name for item in page]
        assert len(found) < 1000, "it does not end"
        marker = page.next
        if not marker:
            return found


def main(cloud, instance):
    connection = openstack.connect(cloud=cloud)
    database = connection.database
    trove = client.Client(session=connection.session, service_type="database", region_name="RegionOne")
    for mine, theirs in ((database.databases, trove.databases), (database.users, trove.users)):
        names = [item.name for item in mine(instance)]
        assert len(names) > 20 and len(set(names)) == len(names) and names == sorted(names), names
        for limit in (1, 2, 5, 7, 20, len(names)):
            assert [item.name for item in mine(instance, limit=limit)] == names, limit
            assert paged(lambda marker: theirs.list(instance, limit=limit, marker=marker)) == names, limit
    flavors = [flavor.name for flavor in database.flavors()]
    for limit in (1, 2, len(flavors)):
        assert [flavor.name for flavor in database.flavors(limit=limit)] == flavors, limit
    ids = [found.id for found in database.instances()]
    assert [found.id for found in database.instances(limit=1)] == ids, ids
    print("done")


main(sys.argv[1], sys.argv[2])
