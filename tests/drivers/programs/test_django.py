"""Django: migrations, queries and transactions, with psycopg and both kinds of cursors."""

import os

import django
import pytest
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": os.environ["PGPORT"],
            "OPTIONS": {"server_side_binding": True},
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    SECRET_KEY="of a test",
    CACHES={"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "cache"}},
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from django.core.cache import cache  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    call_command("createcachetable", verbosity=0)
    yield
    connection.close()


@pytest.fixture(autouse=True)
def empty(migrated):
    User.objects.all().delete()
    Group.objects.all().delete()


def test_migrate_back_and_forth():
    call_command("migrate", "sessions", "zero", verbosity=0)
    call_command("migrate", "sessions", verbosity=0)
    assert "django_session" in connection.introspection.table_names()


def test_nothing_left_to_migrate():
    call_command("migrate", check_unapplied=True, verbosity=0)


def test_rows_and_relations():
    group = Group.objects.create(name="g")
    for n in range(50):
        User.objects.create_user(f"u{n}").groups.add(group)
    assert group.user_set.filter(username__startswith="u1").count() == 11
    assert len(User.objects.prefetch_related("groups").all()) == 50


def test_bulk():
    User.objects.bulk_create([User(username=f"b{n}") for n in range(3_000)], batch_size=500)
    assert User.objects.filter(username__contains="b1").update(first_name="x") == 1_111
    User.objects.bulk_create([User(username="b0", last_name="again")], update_conflicts=True,
                             unique_fields=["username"], update_fields=["last_name"])
    assert User.objects.get(username="b0").last_name == "again"


def test_iterator_with_a_cursor_of_the_server():
    User.objects.bulk_create([User(username=f"i{n}") for n in range(1_000)])
    # Outside of a transaction: a cursor WITH HOLD.
    assert sum(1 for _ in User.objects.iterator(chunk_size=50)) == 1_000
    with transaction.atomic():
        assert sum(1 for _ in User.objects.iterator(chunk_size=50)) == 1_000


def test_atomic_and_savepoints():
    with transaction.atomic():
        User.objects.create(username="a")
        with pytest.raises(IntegrityError), transaction.atomic():
            User.objects.create(username="a")
        User.objects.create(username="b")
    assert User.objects.count() == 2


def test_on_commit():
    said = []
    with transaction.atomic():
        transaction.on_commit(lambda: said.append("committed"))
        assert said == []
    assert said == ["committed"]


def test_select_for_update():
    User.objects.create(username="locked")
    with transaction.atomic():
        assert User.objects.select_for_update(skip_locked=True).get().username == "locked"


def test_aggregates():
    User.objects.bulk_create([User(username=f"n{n}", first_name=str(n % 5)) for n in range(100)])
    groups = User.objects.values("first_name").annotate(count=models.Count("id")).order_by("first_name")
    assert [group["count"] for group in groups] == [20] * 5


def test_schema_editor():
    class Thing(models.Model):
        name = models.CharField(max_length=10)

        class Meta:
            app_label = "auth"

    with connection.schema_editor() as editor:
        editor.create_model(Thing)
    Thing.objects.create(name="1")
    field = models.IntegerField(default=0)
    field.set_attributes_from_name("name")
    with connection.schema_editor() as editor:
        editor.alter_field(Thing, Thing._meta.get_field("name"), field)
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM auth_thing")
        assert cursor.fetchone() == (1,)
    with connection.schema_editor() as editor:
        editor.delete_model(Thing)


def test_sessions_and_cache():
    store = SessionStore()
    store["key"] = [1, 2]
    store.save()
    assert SessionStore(store.session_key)["key"] == [1, 2]
    cache.set("a", {"b": 1})
    assert cache.get("a") == {"b": 1}
    assert cache.add("a", 2) is False


def test_time_zone_stays():
    with connection.cursor() as cursor:
        for _ in range(5):
            cursor.execute("SHOW timezone")
            assert cursor.fetchone() == ("UTC",)


def test_connection_is_usable_again():
    connection.close()
    assert connection.is_usable() if connection.connection else True
    assert User.objects.count() == 0
    assert connection.is_usable()
