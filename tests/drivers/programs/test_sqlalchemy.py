"""SQLAlchemy: its unit of work, its pool and its reflection, over three drivers."""

import os

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

DRIVERS = ["psycopg2", "psycopg", "pg8000"]


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(50), unique=True)
    books: orm.Mapped[list["Book"]] = orm.relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    price: orm.Mapped[float] = orm.mapped_column(sa.Numeric(8, 2))
    data: orm.Mapped[dict] = orm.mapped_column(sa.JSON, default=dict)
    author_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("author.id"))
    author: orm.Mapped[Author] = orm.relationship(back_populates="books")


@pytest.fixture(params=DRIVERS)
def engine(request):
    url = f"postgresql+{request.param}://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres"
    engine = sa.create_engine(url, pool_size=5)
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield engine
    Base.metadata.drop_all(engine)
    engine.dispose()


def fill(engine, count=20):
    with orm.Session(engine) as session:
        for n in range(count):
            books = [Book(title=f"b{n}.{m}", price=m + 0.5, data={"n": m}) for m in range(3)]
            session.add(Author(name=f"a{n}", books=books))
        session.commit()


def test_unit_of_work(engine):
    fill(engine)
    with orm.Session(engine) as session:
        author = session.scalars(sa.select(Author).where(Author.name == "a7")).one()
        assert [book.title for book in author.books] == ["b7.0", "b7.1", "b7.2"]
        author.name = "other"
        del author.books[0]
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 59


def test_eager_loading(engine):
    fill(engine)
    with orm.Session(engine) as session:
        for option in [orm.selectinload(Author.books), orm.joinedload(Author.books)]:
            authors = session.scalars(sa.select(Author).options(option)).unique().all()
            assert sum(len(author.books) for author in authors) == 60


def test_savepoints_and_conflicts(engine):
    fill(engine, 2)
    with orm.Session(engine) as session:
        for name in ["a0", "new", "a1"]:
            try:
                with session.begin_nested():
                    session.add(Author(name=name))
            except sa.exc.IntegrityError:
                pass
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Author)) == 3


def test_bulk_insert_returning(engine):
    with orm.Session(engine) as session:
        rows = [{"name": f"bulk {n}"} for n in range(2_500)]
        ids = session.scalars(sa.insert(Author).returning(Author.id), rows).all()
        assert len(set(ids)) == 2_500
        session.rollback()
        assert session.scalar(sa.select(sa.func.count()).select_from(Author)) == 0


def test_stream_in_batches(engine):
    with engine.connect() as connection:
        query = sa.text("SELECT generate_series(1, 5000)")
        result = connection.execution_options(stream_results=True, max_row_buffer=100).execute(query)
        assert sum(row[0] for row in result) == 12_502_500


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"])
def test_isolation_levels(engine, level):
    with engine.connect().execution_options(isolation_level=level) as connection:
        got = connection.scalar(sa.text("SHOW transaction_isolation"))
        assert got.upper() == (level if level != "AUTOCOMMIT" else "READ COMMITTED")
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW transaction_isolation")) == "read committed"


def test_reflection(engine):
    metadata = sa.MetaData()
    metadata.reflect(engine)
    assert {"author", "book"} <= set(metadata.tables)
    assert [key.column.name for key in metadata.tables["book"].foreign_keys] == ["id"]


def test_table_that_changes_under_a_pool(engine):
    fill(engine, 1)
    for n in range(3):
        for _ in range(6):
            with engine.connect() as connection:
                row = connection.execute(sa.text("SELECT * FROM author WHERE id > :id"), {"id": 0}).one()
                assert len(row) == 2 + n
        with engine.begin() as connection:
            connection.execute(sa.text(f"ALTER TABLE author ADD extra{n} int"))
        # As after a migration: psycopg's own prepared statements know nothing of it.
        engine.dispose()


def test_two_phase(engine):
    if engine.driver == "psycopg2" or engine.driver == "psycopg" or engine.driver == "pg8000":
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            connection.execute(sa.insert(Author), {"name": "two"})
            transaction.prepare()
            transaction.commit()
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT name FROM author")) == "two"


def test_lost_connections_are_found_by_ping():
    url = f"postgresql+psycopg2://postgres@127.0.0.1:{os.environ['PGPORT']}/postgres"
    engine = sa.create_engine(url, pool_pre_ping=True)
    with engine.connect() as connection:
        connection.connection.driver_connection.close()
        connection.invalidate()
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
    engine.dispose()
