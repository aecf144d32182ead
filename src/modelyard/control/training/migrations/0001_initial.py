import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('jobs', '0001_initial'),
        ('registry', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Run',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('model', models.CharField(help_text='the name that its version is registered under', max_length=63)),
                ('source', models.CharField(help_text="the table's file name, or the blueprint's name", max_length=255)),
                ('data_digest', models.CharField(blank=True, default='', max_length=64)),
                ('target', models.CharField(blank=True, default='', max_length=200)),
                ('positive', models.CharField(blank=True, default='', max_length=200)),
                ('recipe', models.JSONField(default=dict)),
                ('recipe_digest', models.CharField(blank=True, default='', help_text='of everything but the data', max_length=64)),
                ('status', models.CharField(choices=[('queued', 'Queued'), ('running', 'Running'), ('succeeded', 'Succeeded'), ('failed', 'Failed')], default='queued', max_length=9)),
                ('metrics', models.JSONField(default=dict)),
                ('error', models.TextField(blank=True, default='')),
                ('log', models.TextField(blank=True, default='', help_text='its steps')),
                ('created_by', models.CharField(max_length=150)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('job', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='runs', to='jobs.job')),
                ('version', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='runs', to='registry.version')),
            ],
            options={
                'ordering': ['-pk'],
                'indexes': [models.Index(fields=['data_digest', 'recipe_digest'], name='trained_before')],
            },
        ),
    ]
