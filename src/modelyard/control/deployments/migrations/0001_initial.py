import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('registry', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Endpoint',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=63, unique=True)),
                ('is_default', models.BooleanField(default=False, help_text='answers dialects that have no name in the path')),
                ('cutoff', models.FloatField(blank=True, help_text="overrides the version's own decision", null=True)),
                ('max_rows', models.PositiveIntegerField(blank=True, help_text="overrides the gateway's limit", null=True)),
                ('sticky_by', models.CharField(blank=True, default='', help_text='header that pins a caller to a version', max_length=64)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('model', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='endpoints', to='registry.model')),
            ],
            options={
                'ordering': ['name'],
            },
        ),
        migrations.CreateModel(
            name='Deployment',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('weight', models.PositiveSmallIntegerField(help_text='percent of calls', validators=[django.core.validators.MaxValueValidator(100)])),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='deployments', to='registry.version')),
                ('endpoint', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='deployments', to='deployments.endpoint')),
            ],
            options={
                'ordering': ['endpoint__name', '-weight', '-version__number'],
            },
        ),
        migrations.CreateModel(
            name='Publication',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('committed', models.PositiveBigIntegerField(default=0)),
                ('published', models.PositiveBigIntegerField(default=0)),
                ('require_keys', models.BooleanField(default=False)),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('pk', 1)), name='one_publication'), models.CheckConstraint(condition=models.Q(('published__lte', models.F('committed'))), name='published_was_committed')],
            },
        ),
        migrations.AddConstraint(
            model_name='endpoint',
            constraint=models.UniqueConstraint(condition=models.Q(('is_default', True)), fields=('is_default',), name='one_default_endpoint'),
        ),
        migrations.AddConstraint(
            model_name='endpoint',
            constraint=models.CheckConstraint(condition=models.Q(('cutoff__isnull', True), models.Q(('cutoff__gt', 0), ('cutoff__lt', 1)), _connector='OR'), name='cutoff_is_a_probability'),
        ),
        migrations.AddConstraint(
            model_name='endpoint',
            constraint=models.CheckConstraint(condition=models.Q(('max_rows__isnull', True), ('max_rows__gte', 1), _connector='OR'), name='rows_are_allowed'),
        ),
        migrations.AddConstraint(
            model_name='deployment',
            constraint=models.UniqueConstraint(fields=('endpoint', 'version'), name='version_deployed_once'),
        ),
        migrations.AddConstraint(
            model_name='deployment',
            constraint=models.CheckConstraint(condition=models.Q(('weight__lte', 100)), name='weight_is_a_percent'),
        ),
    ]
