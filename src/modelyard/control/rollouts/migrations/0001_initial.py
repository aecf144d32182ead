import django.db.models.deletion
from django.db import migrations, models

from modelyard.control.append_only import guard


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Rollout',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('endpoint', models.CharField(help_text='its name: the rollout outlives it', max_length=63)),
                ('model', models.CharField(max_length=63)),
                ('champion', models.PositiveIntegerField(help_text='the version that had all calls')),
                ('candidate', models.PositiveIntegerField(help_text='the version that is to have them')),
                ('policy', models.JSONField(help_text='steps, guards and false-alarm rate; fixed when it starts')),
                ('lease_seconds', models.FloatField(help_text='how long its share holds without a sign of life from here')),
                ('state', models.CharField(choices=[('running', 'Running'), ('paused', 'Paused'), ('finished', 'Finished'), ('rolled_back', 'Rolled Back'), ('aborted', 'Aborted')], default='running', max_length=11)),
                ('reason', models.TextField(blank=True, default='', help_text='why it ended, or is paused')),
                ('finding', models.JSONField(blank=True, help_text='what rolled it back, in figures', null=True)),
                ('progress', models.JSONField(default=dict, help_text='the step, what was seen in it, and the evidence')),
                ('baseline', models.JSONField(default=dict, help_text="the gateway's counters at the last look")),
                ('looked_at', models.DateTimeField(blank=True, null=True)),
                ('step_started_at', models.DateTimeField()),
                ('revision', models.PositiveBigIntegerField(default=0, help_text='of the plan that its last change made')),
                ('by', models.CharField(max_length=150)),
                ('approved_by', models.CharField(blank=True, default='', max_length=150)),
                ('started_at', models.DateTimeField()),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'ordering': ['-pk'],
                'indexes': [models.Index(fields=['endpoint', '-id'], name='rollouts_of_an_endpoint')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('state__in', ['running', 'paused'])), fields=('endpoint',), name='one_active_rollout'), models.CheckConstraint(condition=models.Q(('lease_seconds__gt', 0)), name='rollout_has_a_lease'), models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', True), ('state__in', ['running', 'paused'])), models.Q(models.Q(('state__in', ['running', 'paused']), _negated=True), ('ended_at__isnull', False)), _connector='OR'), name='rollout_ends_once')],
            },
        ),
        migrations.CreateModel(
            name='RolloutEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(auto_now_add=True)),
                ('by', models.CharField(max_length=150)),
                ('verb', models.CharField(max_length=40)),
                ('details', models.JSONField(default=dict)),
                ('rollout', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='events', to='rollouts.rollout')),
            ],
            options={
                'ordering': ['-pk'],
            },
        ),
        guard("rollouts_rolloutevent"),
    ]
