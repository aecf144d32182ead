from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Job',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('work', models.CharField(help_text='dotted name of the function that does it', max_length=200)),
                ('arguments', models.JSONField(default=dict)),
                ('status', models.CharField(choices=[('queued', 'Queued'), ('running', 'Running'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='queued', max_length=9)),
                ('attempt', models.PositiveSmallIntegerField(default=0, help_text='counts claims; old claims are refused by it')),
                ('max_attempts', models.PositiveSmallIntegerField(default=3)),
                ('timeout_s', models.PositiveIntegerField(default=3600)),
                ('run_after', models.DateTimeField()),
                ('lease_until', models.DateTimeField(blank=True, null=True)),
                ('runner', models.CharField(blank=True, default='', max_length=100)),
                ('cancel_asked', models.BooleanField(default=False)),
                ('step', models.CharField(blank=True, default='', max_length=200)),
                ('progress', models.FloatField(default=0.0, help_text='of the present step, 0 to 1')),
                ('log', models.TextField(blank=True, default='', help_text='the last lines')),
                ('result', models.JSONField(blank=True, null=True)),
                ('error', models.TextField(blank=True, default='')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('created_by', models.CharField(max_length=150)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ['-pk'],
                'indexes': [models.Index(fields=['status', 'run_after'], name='jobs_to_do')],
                'constraints': [models.CheckConstraint(condition=models.Q(('progress__gte', 0), ('progress__lte', 1)), name='progress_is_a_share'), models.CheckConstraint(condition=models.Q(models.Q(('status', 'running'), _negated=True), ('lease_until__isnull', False), _connector='OR'), name='running_under_a_lease')],
            },
        ),
    ]
