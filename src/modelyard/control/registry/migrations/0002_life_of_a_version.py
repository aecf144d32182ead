import django.db.models.deletion
import msgspec
from django.db import migrations, models
from django.db.models import Prefetch, Q

from modelyard.artifacts.store import MANIFEST
from modelyard.control.registry.immutable import freeze
from modelyard.control.setup import active_home


def read_artifacts(apps, editor):
    """The new columns of the versions that are there, from their rows and, where it lies there, their manifest."""
    shelf = active_home().shelf
    for version in apps.get_model('registry', 'Version').objects.iterator():
        version.data_digest = str(version.lineage.get('data_digest', ''))[:64]
        version.code_revision = str(version.lineage.get('code_revision', ''))[:80]
        try:
            manifest = msgspec.json.decode((shelf / version.digest / MANIFEST).read_bytes())
            version.size_bytes = sum(entry['size'] for entry in manifest['files'].values())
            version.trusted = bool(manifest.get('trusted', False))
        except (OSError, msgspec.MsgspecError, KeyError):
            pass  # its size stays unknown; `models show` says what is wrong with it
        version.save(update_fields=['data_digest', 'code_revision', 'size_bytes', 'trusted'])


def begin_the_log(apps, editor):
    """What is served when the log of it begins: one event for each endpoint. What was before is in the audit trail."""
    publication = apps.get_model('deployments', 'Publication').objects.filter(pk=1).first()
    joined = Prefetch('deployments', apps.get_model('deployments', 'Deployment').objects.select_related('version'))
    for endpoint in apps.get_model('deployments', 'Endpoint').objects.prefetch_related(joined):
        weights = {str(row.version.number): row.weight for row in endpoint.deployments.all() if row.weight}
        apps.get_model('registry', 'Event').objects.create(
            model_id=endpoint.model_id,
            by='upgrade',
            verb='upgrade',
            version=max(weights, key=weights.get, default=None),
            endpoint=endpoint.name,
            revision=publication.committed if publication else 0,
            details={
                'endpoint': endpoint.name,
                'weights': weights,
                'revision': publication.committed if publication else 0,
            },
        )


class Migration(migrations.Migration):

    dependencies = [
        ('registry', '0001_initial'),
        ('deployments', '0001_initial'),
    ]

    operations = [
        migrations.AddField(
            model_name='model',
            name='description',
            field=models.TextField(blank=True, default='', help_text='what it is for, in the words of its owners'),
        ),
        migrations.AddField(
            model_name='version',
            name='data_digest',
            field=models.CharField(blank=True, default='', help_text='of the table it learned from', max_length=64),
        ),
        migrations.AddField(
            model_name='version',
            name='code_revision',
            field=models.CharField(blank=True, default='', help_text='of the code that made it', max_length=80),
        ),
        migrations.AddField(
            model_name='version',
            name='size_bytes',
            field=models.PositiveBigIntegerField(help_text="of the artifact's files", null=True),
        ),
        migrations.AddField(
            model_name='version',
            name='trusted',
            field=models.BooleanField(default=False, help_text='holds or names code that was trusted when it was registered'),
        ),
        migrations.AddIndex(
            model_name='version',
            index=models.Index(fields=['data_digest'], name='versions_by_data'),
        ),
        migrations.AddIndex(
            model_name='version',
            index=models.Index(fields=['digest'], name='versions_by_digest'),
        ),
        migrations.CreateModel(
            name='Tag',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(max_length=63)),
                ('value', models.CharField(max_length=200)),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tags', to='registry.model')),
                ('version', models.ForeignKey(help_text="empty: the model's", null=True, on_delete=django.db.models.deletion.CASCADE, related_name='tags', to='registry.version')),
            ],
            options={
                'ordering': ['key'],
                'indexes': [models.Index(fields=['key', 'value'], name='tagged_with')],
                'constraints': [
                    models.UniqueConstraint(condition=Q(('version', None)), fields=('model', 'key'), name='model_tagged_once'),
                    models.UniqueConstraint(fields=('version', 'key'), name='version_tagged_once'),
                ],
            },
        ),
        # Both may be empty, so SQLite adds the columns in place and the triggers that guard the table stay.
        migrations.AddField(
            model_name='event',
            name='endpoint',
            field=models.CharField(help_text='whose answers it changed; none of its own: empty', max_length=63, null=True),
        ),
        migrations.AddField(
            model_name='event',
            name='revision',
            field=models.PositiveBigIntegerField(help_text='of the plan that says so', null=True),
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['model', '-id'], name='events_of_a_model'),
        ),
        migrations.AddIndex(
            model_name='event',
            index=models.Index(fields=['endpoint', '-id'], name='events_of_an_endpoint'),
        ),
        migrations.AlterModelOptions(
            name='alias',
            options={'ordering': ['model__name', 'name'], 'verbose_name_plural': 'aliases'},
        ),
        migrations.AlterModelOptions(
            name='event',
            options={
                'ordering': ['-pk'],
                'permissions': [
                    ('trace_request', 'Can trace a request to its version and to whoever put that there'),
                    ('trace_inputs', 'Can see what the model saw of a traced request'),
                ],
            },
        ),
        # Before the data: PostgreSQL alters no table that waits for its rows' references to be checked.
        freeze('registry_version', ('model_id', 'number', 'digest', 'task', 'framework', 'contract_digest', 'created_at', 'created_by')),
        migrations.RunPython(read_artifacts, migrations.RunPython.noop),
        migrations.RunPython(begin_the_log, migrations.RunPython.noop),
    ]
